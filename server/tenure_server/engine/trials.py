"""Trials: recorded decisions judged anew, under a candidate for the tenant's constitution.

A decision's facts are those that were kept beside its entry (see `court`), or are made again from
the entry, its items, and the tables. What cannot be made again, such as how busy the tenant was
when it was only read from, is left out, and where an article asks for it the decision is passed
over: to guess would show changes that are none.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from tenure_constitution import facts as fact_table
from tenure_constitution.article import Constitution, effective_digest
from tenure_constitution.facts import Labels
from tenure_constitution.judge import Judge, Verdict
from tenure_constitution.laws import Effect, Point, VerdictResult
from tenure_evidence.items import events_of
from tenure_server.core.definitions.declared import WorkflowTask
from tenure_server.core.desks.law import DENIED
from tenure_server.core.ledger.records import ConstitutionVersion, earlier_versions
from tenure_server.core.progress.expansion import OUTPUT_NOT_JSON
from tenure_server.core.runs.extensions import Shape, declared_as, shape_of
from tenure_server.engine.constitutions import Constitutions
from tenure_server.engine.court import in_order
from tenure_server.engine.registry import KnownWorkflow, record_changed
from tenure_server.store.database import Store
from tenure_server.store.reads import TenantReads
from tenure_server.store.verdict_reads import Decision, RunSummary, VerdictReads

#: Entries read in one go, in a reader's thread.
PAGE = 200
#: What is judged in one go: whoever asked may be gone, and whatever else runs here waits.
SLICE_SECONDS = 0.005
DECISIONS_DEFAULT = 10_000
DECISIONS_MAX = 100_000
_VERSIONS_MAX = 1000
#: The failures that the coordinator makes of a success after it was judged.
_OUTPUT_REFUSED = ("OUTPUT_INVALID", OUTPUT_NOT_JSON)
#: Refusals of the constitution itself; whatever else refused a call came before it, or after.
_DENIALS = ("", "CALL_DENIED", "ACT_DENIED")

Facts = dict[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A decision that would come out otherwise."""

    index: int
    kind: str
    at_us: int
    point: Point
    was: VerdictResult
    would: Verdict
    subject: str


@dataclass(slots=True)
class Progress:
    """How a trial goes on."""

    judged: int = 0
    total: int = 0
    changes: list[Change] = field(default_factory=list)


class Trial:
    """One trial in one tenant. `begin` and `step` are for a reader's thread."""

    def __init__(
        self,
        store: Store,
        tenant_id: str,
        constitutions: Constitutions,
        candidate: Constitution,
        *,
        rpc_of: Callable[[str], Mapping[str, Any] | None],
        decisions_max: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`rpc_of` gives what articles may look at of a method, None for what they never judge."""
        self._monotonic = monotonic
        self._left = self._judging()
        self._reads = VerdictReads(store, tenant_id)
        self._tenant_reads = TenantReads(store, tenant_id)
        self._tenant_id = tenant_id
        self._constitutions = constitutions
        self._content = candidate
        self._candidate: Judge
        self._rpc_of = rpc_of
        self._most = min(decisions_max or DECISIONS_DEFAULT, DECISIONS_MAX)
        self._before = 0
        #: What was in force, by the digest that entries have of it.
        self._in_force: dict[str, Constitution] = {}
        self._judges: dict[tuple[str, tuple[str, ...]], Judge] = {}
        self._workflows: dict[str, KnownWorkflow | None] = {}
        self.progress = Progress()

    def begin(self) -> None:
        """Compiles the articles, and finds out how much there is to judge."""
        self._candidate = Judge(self._constitutions.platform, self._content)
        self._before = self._reads.entry_count()
        self.progress.total = min(self._before, self._most)
        platform = self._constitutions.platform
        self._in_force = {effective_digest(platform, None): platform}
        self._last: tuple[tuple[str, str], Shape] | None = None
        versions: Sequence[ConstitutionVersion] = self._tenant_reads.constitutions(
            None, _VERSIONS_MAX
        )
        for version in versions:
            tenant = self._constitutions.articles_of(version)
            whole = Constitution(articles=(*platform.articles, *tenant.articles))
            self._in_force[effective_digest(platform, tenant)] = whole

    def step(self) -> bool:
        """Judges for `SLICE_SECONDS`, and tells whether there is anything left."""
        end = self._monotonic() + SLICE_SECONDS
        for change in self._left:
            if change is not None:
                self.progress.changes.append(change)
            if self._monotonic() >= end:
                return True
        return False

    def _judging(self) -> Iterator[Change | None]:
        """Judges act by act, of which one decision can have a thousand; None: nothing changes."""
        progress = self.progress
        while progress.judged < progress.total:
            left = progress.total - progress.judged
            page = self._reads.decisions(self._before, min(PAGE, left))
            if not page:
                return
            for decision in page:
                self._before = decision.index
                yield from self._changes(decision)
                progress.judged += 1
                yield None

    def _changes(self, decision: Decision) -> Iterator[Change | None]:
        halted = False
        judged = list(self._judged(decision))
        acts = Counter(point for point, *_ in judged)
        for point, facts, denied, subject in judged:
            if halted and point is Point.START:
                continue
            was = VerdictResult.DENY if denied else self._was(decision, point, facts, acts[point])
            # Runs that would have been started after the one that was denied were not judged.
            halted = halted or (point is Point.START and was is VerdictResult.DENY)
            if _missing(self._candidate.reads(point), facts):
                continue
            would = self._candidate.judge(point, facts)
            if would.result is not was:
                yield Change(
                    index=decision.index,
                    kind=decision.kind,
                    at_us=decision.at_us,
                    point=point,
                    was=was,
                    would=would,
                    subject=subject,
                )
            else:
                yield None

    def _was(self, decision: Decision, point: Point, facts: Facts, acts: int) -> VerdictResult:
        """What was said of one act at a point, by the articles that the entry has.

        Where it has many acts of the point, those that objected to any of them are asked again of
        each, as they were then: an article's id may mean another article by now.
        """
        objected = [
            item
            for item in decision.entry.get("articles", ())
            if item.get("point", point.word) == point.word
        ]
        if not objected:
            return VerdictResult.ALLOW
        if acts > 1 and (judge := self._judge_of(decision, point, objected)) is not None:
            return judge.judge(point, facts).result
        denied = any(item["effect"] == Effect.DENY.word for item in objected)
        return VerdictResult.DENY if denied else VerdictResult.WARN

    def _judge_of(
        self, decision: Decision, point: Point, objected: Sequence[Mapping[str, Any]]
    ) -> Judge | None:
        """Who judges by nothing but these articles, None when they are not known any more."""
        digest = decision.entry.get("constitution", "")
        named = tuple(item["id"] for item in objected)
        if (judge := self._judges.get((digest, named))) is not None:
            return judge
        in_force = self._in_force.get(digest, Constitution()).articles
        articles = tuple(one for one in in_force if one.id in named and one.point is point)
        if len(articles) < len(set(named)):
            return None
        judge = self._judges[digest, named] = Judge(Constitution(articles=articles))
        return judge

    # -- the facts of a decision, by point

    def _judged(self, decision: Decision) -> Iterator[tuple[Point, Facts, bool, str]]:
        """Each act of an entry that was judged: where, by what, whether it is known to have been
        denied, and what it names.
        """
        rpc = self._rpc_of(decision.entry.get("method", ""))
        kept = decision.facts or {}
        points = kept.get("points", ())
        subject = _subject(decision)
        if rpc is not None and Point.CALL.word in points:
            yield Point.CALL, _frozen(kept), False, subject
        elif rpc is not None and _is_call(decision):
            yield Point.CALL, self._call_facts(decision, rpc), False, subject
        if Point.REGISTER.word in points:
            yield Point.REGISTER, _frozen(kept), False, subject
        if Point.START.word in points:
            for facts in self._start_facts(kept):
                yield Point.START, facts, False, f"workflow {facts['workflow']['name']}"
        yield from self._items(decision, kept)

    def _call_facts(self, decision: Decision, rpc: Mapping[str, Any]) -> Facts:
        roles = tuple(decision.entry.get("roles", ()))
        return {
            "principal": {"id": decision.principal, "roles": roles},
            "rpc": rpc,
            "tenant": {"id": self._tenant_id},
            "time": fact_table.of_time(decision.at_us / 1e6),
        }

    def _start_facts(self, kept: Mapping[str, Any]) -> Iterator[Facts]:
        starts = []
        for start in kept["starts"]:
            known = self._workflow(start["definition"])
            if known is None:
                return
            starts.append((fact_table.frozen({"run": start["run"]})["run"], known.facts))
        yield from in_order(_frozen(kept), starts)

    def _items(
        self, decision: Decision, kept: Mapping[str, Any]
    ) -> Iterator[tuple[Point, Facts, bool, str]]:
        events = (event for item in decision.items for event in events_of(item))
        found = [(event, point) for event in events if (point := _point(event)) is not None]
        if not found:
            return
        agent = fact_table.frozen({"agent": kept.get("agent", {})}).get("agent")
        runs = self._reads.runs(sorted({item["run"] for item, _ in found}))
        for item, point in found:
            run = runs.get(item["run"])
            if run is None:
                continue
            known = self._workflow(digest_at(run, item["seq"]))
            task = None if known is None else _declared(known, item["task"])
            if known is None or task is None:
                continue
            facts: Facts = {
                "workflow": known.facts,
                "run": {
                    "id": run.run_id,
                    "priority": run.priority,
                    "labels": Labels(run.labels),
                    "input_bytes": run.input_bytes,
                },
                "task": _task_facts(task, item),
                "agent": agent or {"name": item.get("agent", ""), "labels": fact_table.NO_LABELS},
            }
            if point is Point.LEASE:
                facts["time"] = fact_table.of_time(item["at"] / 1e6)
            else:
                facts["result"] = self._result_facts(run, item, decision.entry["verdict"])
            denied = item.get("code") == DENIED and decision.entry["verdict"] == "deny"
            yield point, facts, denied, f"task {item['task']} of run {item['run']}"

    def _number(self, run: RunSummary, key: str) -> int | None:
        """The number of a task, as the run stands now; None when it has no such task any more."""
        known = self._workflow(run.workflow_digest)
        if known is None or run.detail is None:
            return None if known is None else known.graph.index.get(key)
        # Those of the last one are kept, as its next act often comes next.
        if self._last is None or self._last[0] != (run.run_id, run.detail):
            shape = shape_of(known.definition, known.graph, run.detail)
            self._last = (run.run_id, run.detail), shape
        return self._last[1].graph.index.get(key)

    def _result_facts(
        self, run: RunSummary, item: Mapping[str, Any], verdict: str
    ) -> dict[str, Any]:
        if item["kind"] == "task.succeeded":
            size = self._output_bytes(run, item["task"]) if "output" in item else 0
            return {"ok": True, "code": "", "output_bytes": size or 0}
        code = item.get("code", "")
        if code in _OUTPUT_REFUSED or (code == DENIED and verdict == "deny"):
            # It was a success; what it put out was not kept.
            return {"ok": True, "code": ""}
        return {"ok": False, "code": code, "output_bytes": 0}

    def _output_bytes(self, run: RunSummary, key: str) -> int | None:
        index = self._number(run, key)
        return None if index is None else self._reads.output_bytes(run.run_id, index)

    def _workflow(self, digest: str) -> KnownWorkflow | None:
        if digest not in self._workflows:
            record = self._tenant_reads.workflow_by_digest(digest)
            self._workflows[digest] = None
            if record is not None and not record_changed(record):
                self._workflows[digest] = KnownWorkflow.of(record)
        return self._workflows[digest]


def digest_at(run: RunSummary, sequence: int) -> str:
    """The digest of the definition that a run was under at one of its events."""
    if run.detail is not None and '"moves"' in run.detail:
        for one in earlier_versions(orjson.loads(run.detail)):
            if sequence < one.until_sequence:
                return one.digest
    return run.workflow_digest


def _declared(known: KnownWorkflow, key: str) -> WorkflowTask | None:
    try:
        return declared_as(known.definition, known.graph, key)
    except LookupError:
        return None


def _point(item: Mapping[str, Any]) -> Point | None:
    """Where what an item tells was judged, if it was."""
    match item["kind"]:
        case "task.leased":
            return Point.LEASE
        case "task.succeeded":
            # Others were not reported by an agent.
            return Point.SETTLE if "result" in item else None
        case "task.failed" | "task.retrying" if "result" in item:
            return None if item.get("code") == "TIMED_OUT" else Point.SETTLE
        case "task.failed" | "task.retrying" if item.get("code") == DENIED:
            return Point.LEASE
        case _:
            return None


def _is_call(decision: Decision) -> bool:
    """Whether an entry stands for a call or a message, not for what the coordinator did by itself
    for one who is on the line.
    """
    entry = decision.entry
    if entry.get("refusal", "") not in _DENIALS:
        return False
    return not (decision.kind == "lease.grant" and entry["method"].endswith("/Work"))


def _task_facts(task: WorkflowTask, item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "key": item["task"],
        "kind": task.kind,
        "attempt": item["attempt"],
        "priority": task.priority,
        "has_timeout": task.attempt_timeout_us is not None,
    }


def _frozen(kept: Mapping[str, Any]) -> Facts:
    roots = {root: kept[root] for root in fact_table.ROOTS if root in kept}
    return dict(fact_table.frozen(roots))


def _missing(reads: frozenset[str], facts: Facts) -> bool:
    for path in reads:
        root, name = path.split(".")
        if name not in facts.get(root, {}):
            return True
    return False


def _subject(decision: Decision) -> str:
    named = decision.entry.get("subject", {})
    if "workflow" in named:
        return f"workflow {named['workflow']}"
    return str(decision.entry.get("method", "")).rpartition("/")[2]
