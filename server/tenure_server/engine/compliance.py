"""Compliance: how a tenant, a workflow or a run kept the laws in a period, counted from its log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any

from tenure_constitution import dimensions
from tenure_constitution.article import Article
from tenure_constitution.dimensions import Assessment
from tenure_constitution.laws import Coverage, Dimension, Effect, Law, Perspective, Point
from tenure_evidence.keys import Chain
from tenure_server.core import errors, laws
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import RUN_ENDED, RunState
from tenure_server.engine.constitutions import Constitutions
from tenure_server.engine.inspection import LogBroken, inspect_recent
from tenure_server.engine.registry import KnownWorkflow
from tenure_server.engine.workflows import Workflows
from tenure_server.store.database import Store
from tenure_server.store.evidence_reads import EvidenceReads
from tenure_server.store.reads import TenantReads
from tenure_server.store.verdict_reads import DENIED, REFUSED, WARNED, Scope, VerdictReads

DAY_US = 86_400_000_000
DAYS_MAX = 366
WORKFLOWS_MAX = 1000
REFUSALS_MAX = 100
_PAGE = 2000
_AGENTS_MAX = 100
#: The dimensions of a definition that is not the one that was registered.
_UNTOLD = tuple(Assessment(dimension=one, coverage=Coverage.MISSING) for one in Dimension)
#: How much of a day is looked through for what names a workflow.
_NAMED_PAGES_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """One day, or the part of it that lies in the period."""

    start_us: int
    acts: int
    refusals: int
    denied: int
    warned: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowStanding:
    """One workflow, its dimensions, and the runs of it that were started."""

    record: records.Workflow
    dimensions: Sequence[Assessment]
    states: Counter[RunState]


@dataclass(frozen=True, slots=True)
class LogStanding:
    """What the last look at a log said."""

    kept: bool
    sentence: str


@dataclass(slots=True, kw_only=True)
class Report:
    """What was found. Times in microseconds."""

    start_us: int
    end_us: int
    constitution_digest: str
    log_size: int
    log: LogStanding
    days: list[Day] = field(default_factory=list)
    #: How often each article objected, by its id and law, and with which effect.
    objections: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    #: Acts of which articles of a law denied or warned, by law and effect.
    by_law: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: The newest last: index and entry.
    refusals: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    workflows: list[WorkflowStanding] = field(default_factory=list)
    #: What objected in the period, as entries have it, by its id, law and effect.
    said: dict[tuple[str, str, str], dict[str, str]] = field(default_factory=dict)
    runs: int = 0
    platform: Sequence[Article] = ()
    tenant: Sequence[Article] = ()

    def gone(self) -> list[Article]:
        """The articles that objected in the period, and are not in force any more."""
        in_force = {(one.id, one.law.word) for one in (*self.platform, *self.tenant)}
        found = {}
        for (name, law, _), words in sorted(self.said.items()):
            if (name, law) not in in_force:
                found[name, law] = Article(
                    id=name,
                    law=Law[law.upper()],
                    perspective=Perspective[words["perspective"].upper()],
                    # Entries of before articles' points were kept in them lack it.
                    point=Point[words.get("point", Point.CALL.word).upper()],
                    effect=Effect[words["effect"].upper()],
                    expression="",
                    message="no longer in force",
                )
        return list(found.values())

    def law_standing(self, law: Law) -> tuple[bool, str]:
        """Whether a law was kept, and how it is enforced."""
        if law in (Law.VERIFIABILITY, Law.INTEGRITY):
            return self.log.kept, f"{laws.standing(law)} {self.log.sentence}"
        return True, laws.standing(law)


class Compliance:
    """Makes reports, a day at a time, in readers' threads."""

    def __init__(
        self,
        store: Store,
        constitutions: Constitutions,
        workflows: Workflows,
        *,
        read: Callable[..., Awaitable[Any]],
        now_us: Callable[[], int],
        chain: Chain | None,
    ) -> None:
        """`chain` has the keys that may have signed checkpoints; None: they are not looked at."""
        self._store = store
        self._constitutions = constitutions
        self._workflows = workflows
        self._read = read
        self._now_us = now_us
        self._chain = chain

    async def report(self, tenant_id: str, scope: Scope, start_us: int, end_us: int) -> Report:
        """Reports on a period. Raises NotFound, FieldsInvalid for one that is too long."""
        if not start_us < end_us:
            raise errors.FieldsInvalid([("start_time", "must be before end_time")])
        if end_us - start_us > DAYS_MAX * DAY_US:
            reason = f"must be at most {DAYS_MAX} days before end_time"
            raise errors.FieldsInvalid([("start_time", reason)])
        reads = VerdictReads(self._store, tenant_id)
        run = await self._run(tenant_id, scope.run_id) if scope.run_id else None
        if scope.workflow:
            await self._known(tenant_id, scope.workflow, 0)
        law = self._constitutions.of(tenant_id)
        report = Report(
            start_us=start_us,
            end_us=end_us,
            constitution_digest=law.digest,
            log_size=await self._read(reads.log_size),
            log=await self._read(self._log_standing, tenant_id, start_us, end_us),
            platform=self._constitutions.platform.articles,
            tenant=() if law.articles is None else law.articles.articles,
        )
        for from_us, until_us in _days(start_us, end_us):
            await self._count_day(reads, report, scope, from_us, until_us)
        await self._count_runs(tenant_id, reads, report, scope, run)
        return report

    def _log_standing(self, tenant_id: str, from_us: int, until_us: int) -> LogStanding:
        """Looks at the newest of a tenant's log. Runs in a reader's thread."""
        moment = datetime.fromtimestamp(self._now_us() // 1_000_000, UTC)
        at = moment.strftime("%Y-%m-%d %H:%M:%SZ")
        reads = EvidenceReads(self._store, tenant_id)
        try:
            checked, size = inspect_recent(reads, self._chain, from_us, until_us)
        except LogBroken as error:
            return LogStanding(False, f"The check at {at} failed: {error}.")
        return LogStanding(True, f"Checked {checked} newest of {size} entries at {at}.")

    async def _known(
        self, tenant_id: str, name: str, version: int
    ) -> tuple[records.Workflow, KnownWorkflow | None]:
        """A version; without what it says when it is not what was registered. Raises NotFound."""
        try:
            known = await self._workflows.known(tenant_id, name, version)
        except errors.DefinitionChanged:
            reads = TenantReads(self._store, tenant_id)
            return await self._read(reads.workflow, name, version), None
        return known.record, known

    async def _run(self, tenant_id: str, run_id: str) -> records.Run:
        run: records.Run | None = await self._read(TenantReads(self._store, tenant_id).run, run_id)
        if run is None:
            raise errors.NotFound("run", run_id)
        return run

    async def _count_day(
        self, reads: VerdictReads, report: Report, scope: Scope, from_us: int, until_us: int
    ) -> None:
        found = await self._read(reads.standings, scope, from_us, until_us)
        happened: Counter[int] = Counter(found)
        counts = happened.copy()
        objected: list[tuple[int, dict[str, Any]]] = []
        if scope.workflow and not scope.run_id:
            named = await self._named(reads, scope, from_us, until_us)
            counts.update(standing for _, standing, _ in named)
            objected = [(index, entry) for index, standing, entry in named if standing]
        report.days.append(
            Day(
                start_us=from_us // DAY_US * DAY_US,
                acts=sum(counts.values()),
                refusals=counts.get(DENIED, 0) + counts.get(REFUSED, 0),
                denied=counts.get(DENIED, 0),
                warned=counts.get(WARNED, 0),
            )
        )
        after = -1
        while any(happened[standing] for standing in (WARNED, DENIED, REFUSED)):
            page = await self._read(reads.objected, scope, from_us, until_us, after, _PAGE)
            objected += [(index, entry) for index, _, entry in page]
            if len(page) < _PAGE:
                break
            after = page[-1][0]
        for index, entry in sorted(objected, key=itemgetter(0)):
            _count_entry(report, index, entry)

    async def _named(
        self, reads: VerdictReads, scope: Scope, from_us: int, until_us: int
    ) -> list[tuple[int, int, dict[str, Any]]]:
        """What names a workflow in a day, of its first entries by which nothing happened."""
        found: list[tuple[int, int, dict[str, Any]]] = []
        after: int | None = -1
        for _ in range(_NAMED_PAGES_MAX):
            if after is None:
                break
            page, after = await self._read(reads.named, scope, from_us, until_us, after, _PAGE)
            found += page
        return found

    async def _count_runs(
        self,
        tenant_id: str,
        reads: VerdictReads,
        report: Report,
        scope: Scope,
        run: records.Run | None,
    ) -> None:
        found: dict[str, Counter[RunState]] = {}
        if scope.workflow:
            found[scope.workflow] = Counter()
        if run is not None:
            found[run.workflow] = Counter({run.state: 1})
        else:
            states = await self._read(reads.run_states, scope, report.start_us, report.end_us)
            for workflow, state, count in states:
                found.setdefault(workflow, Counter())[state] += count
        report.runs = sum(states.total() for states in found.values())
        for name in sorted(found)[:WORKFLOWS_MAX]:
            version = 0 if run is None else run.workflow_version
            record, known = await self._known(tenant_id, name, version)
            assessed: Sequence[Assessment] = _UNTOLD
            if known is None:
                changed = f"The stored definition of workflow {name} does not have its digest."
                report.log = LogStanding(False, f"{report.log.sentence} {changed}")
            elif run is not None and run.state in RUN_ENDED:
                assessed = dimensions.of_run(known.facts, await self._summary(reads, run))
            else:
                assessed = dimensions.of_workflow(known.facts)
            standing = WorkflowStanding(record=record, dimensions=assessed, states=found[name])
            report.workflows.append(standing)

    async def _summary(self, reads: VerdictReads, run: records.Run) -> dimensions.RunSummary:
        attempts = await self._read(reads.attempts, run.run_id, _AGENTS_MAX)
        return dimensions.RunSummary(
            run_id=run.run_id,
            definition_digest=run.workflow_digest,
            state=run.state.name.lower(),
            started_us=run.create_us,
            ended_us=run.end_us or run.create_us,
            tasks_succeeded=run.succeeded,
            tasks_failed=run.failed,
            tasks_left=run.upstream_failed + run.cancelled,
            attempts=attempts.attempts,
            retries=attempts.retries,
            leases_lost=attempts.leases_lost,
            agents=attempts.agents,
        )


def _days(start_us: int, end_us: int) -> list[tuple[int, int]]:
    """The days of a period in UTC, the first and the last as far as they lie in it."""
    found = []
    while start_us < end_us:
        until_us = min((start_us // DAY_US + 1) * DAY_US, end_us)
        found.append((start_us, until_us))
        start_us = until_us
    return found


def _count_entry(report: Report, index: int, entry: dict[str, Any]) -> None:
    objected = entry.get("articles", ())
    for one in objected:
        name = one["id"], one["law"], one["effect"]
        report.objections[name] += 1
        report.said[name] = one
    for law, effect in {(one["law"], one["effect"]) for one in objected}:
        report.by_law[law, effect] += 1
    if "refusal" in entry:
        report.refusals.append((index, entry))
        if len(report.refusals) > REFUSALS_MAX:
            del report.refusals[0]
