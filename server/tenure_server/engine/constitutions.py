"""The constitutions in force: the platform's, and beneath it each tenant's.

A tenant's is known here while the tenant's seat is held. It is read with the tenant's open work,
and replaced when a new version was committed; what was decided before keeps the digest it was
decided under.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog

from tenure_constitution import facts as fact_table
from tenure_constitution.article import (
    Constitution,
    ConstitutionInvalid,
    check_beneath,
    effective_digest,
    parse,
)
from tenure_constitution.judge import Judge, Objection, Verdict
from tenure_constitution.laws import Point
from tenure_server.core.definitions.definition import digest_of
from tenure_server.core.leasing.leases import AgentSlots, Success
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import Failure
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.tasks import TaskFacts

#: Gives what articles may look at of an agent, by the id of its key and its name.
AgentFacts = Callable[[str, str], Mapping[str, Any]]

#: All that articles may read of a result for one success to be judged like every other.
_OF_ANY_SUCCESS = frozenset({"result.ok", "result.code"})
#: How many leases that nothing stands against are remembered. All are forgotten beyond it.
_ALLOWED_MAX = 4096

log = structlog.get_logger()


class TenantLaw:
    """Both constitutions as they bind one tenant. It is the `Law` of the tenant's desk.

    `on_lease` and `on_result` are asked tens of thousands of times a second: they gather nothing
    that no article reads.
    """

    def __init__(
        self,
        judge: Judge,
        agent_facts: AgentFacts,
        version: records.ConstitutionVersion | None = None,
        articles: Constitution | None = None,
    ) -> None:
        self.digest = judge.digest
        #: The tenant's own, None when it has none.
        self.version = version
        self.articles = articles
        self._judge = judge
        self._agent_facts = agent_facts
        self._roots = {point: judge.roots(point) for point in Point}
        self._on_lease = judge.applies(Point.LEASE)
        self._on_result = judge.applies(Point.SETTLE)
        self._lease_task = "task" in self._roots[Point.LEASE]
        self._lease_time = "time" in self._roots[Point.LEASE]
        self._result_task = "task" in self._roots[Point.SETTLE]
        self._result_agent = "agent" in self._roots[Point.SETTLE]
        self._lease_remembers = not (self._lease_task or self._lease_time)
        of_run = {path for path in judge.reads(Point.LEASE) if path.startswith("run.")}
        #: Then runs without labels are all alike.
        self._lease_labels_only = of_run <= {"run.labels"}
        #: Facts that nothing stands against, by their identities, which they keep as they are kept
        #: here. Tasks of a run come by the thousand with the very same facts.
        self._allowed: dict[tuple[int, int, int], tuple[Mapping[str, Any], ...]] = {}
        self._allows_success = self._allows_every_success()

    def as_version(self, version: records.ConstitutionVersion) -> TenantLaw:
        """The same articles, once it is known which version they are."""
        return TenantLaw(self._judge, self._agent_facts, version, self.articles)

    def applies(self, point: Point) -> bool:
        """Whether any article applies there."""
        return self._judge.applies(point)

    def roots(self, point: Point) -> frozenset[str]:
        """The roots of the facts that articles read there."""
        return self._roots[point]

    def judge(self, point: Point, facts: Mapping[str, Mapping[str, Any]]) -> Verdict:
        """Judges an act by its facts."""
        return self._judge.judge(point, facts)

    def on_lease(
        self, run: LiveRun, index: int, facts: TaskFacts, agent: AgentSlots, now_us: int
    ) -> Sequence[Objection]:
        """What stands against leasing this task to this agent."""
        if not self._on_lease:
            return ()
        looked_at = run.run_facts, agent.facts, run.workflow_facts
        if self._lease_remembers:
            if self._lease_labels_only:
                looked_at = looked_at[0]["labels"], agent.facts, run.workflow_facts
            key = id(looked_at[0]), id(looked_at[1]), id(looked_at[2])
            if key in self._allowed:
                return ()
        given = {"run": run.run_facts, "agent": agent.facts, "workflow": run.workflow_facts}
        if self._lease_task:
            given["task"] = task_facts(run, index, facts.attempt)
        if self._lease_time:
            given["time"] = fact_table.of_time(now_us / 1e6)
        objections = self._judge.judge(Point.LEASE, given).objections
        if self._lease_remembers and not objections:
            if len(self._allowed) >= _ALLOWED_MAX:
                self._allowed.clear()
            self._allowed[key] = looked_at
        return objections

    def on_result(
        self, run: LiveRun, index: int, facts: TaskFacts, end: Success | Failure, now_us: int
    ) -> Sequence[Objection]:
        """What stands against this result."""
        if not self._on_result or (self._allows_success and isinstance(end, Success)):
            return ()
        given = {
            "run": run.run_facts,
            "result": result_facts(end),
            "workflow": run.workflow_facts,
        }
        if self._result_task:
            given["task"] = task_facts(run, index, facts.attempt)
        if self._result_agent:
            given["agent"] = self._agent_facts(facts.holder, facts.agent)
        return self._judge.judge(Point.SETTLE, given).objections

    def _allows_every_success(self) -> bool:
        """Whether nothing stands against a success, whatever task it is of."""
        if not self._on_result or not self._judge.reads(Point.SETTLE) <= _OF_ANY_SUCCESS:
            return False
        given = {"result": result_facts(Success())}
        return not self._judge.judge(Point.SETTLE, given).objections


class Constitutions:
    """The laws of all tenants by id. The empty id stands for acts that are for no tenant."""

    def __init__(self, platform: Constitution, agent_facts: AgentFacts) -> None:
        self.platform = platform
        self._agent_facts = agent_facts
        self._platform_law = TenantLaw(Judge(platform), agent_facts)
        self._laws: dict[str, TenantLaw] = {}

    def digest_with(self, tenant: Constitution | None) -> str:
        """The digest of the platform's and a tenant's together, as runs and evidence record it."""
        return effective_digest(self.platform, tenant)

    def of(self, tenant_id: str) -> TenantLaw:
        """The law of a tenant; the platform's alone where it has none of its own."""
        return self._laws.get(tenant_id, self._platform_law)

    def law_under(self, version: records.ConstitutionVersion) -> TenantLaw:
        """Compiles a stored version. Takes milliseconds an article: not for the loop.

        Raises ValueError when its bytes do not have its digest.
        """
        articles = self.articles_of(version)
        try:
            check_beneath(self.platform, articles)
        except ConstitutionInvalid as error:
            # The platform's is newer than this one. Both are judged all the same.
            log.warning("two articles share an id", tenant=version.tenant_id, detail=str(error))
        judge = Judge(self.platform, articles)
        return TenantLaw(judge, self._agent_facts, version, articles)

    @staticmethod
    def articles_of(version: records.ConstitutionVersion) -> Constitution:
        """Reads a stored version. Raises ValueError when its bytes do not have its digest."""
        if digest_of(version.canonical) != version.digest:
            name = f"{version.tenant_id} version {version.version}"
            raise ValueError(f"the stored constitution of {name} does not have its digest")
        return parse(version.canonical)

    def enforce(self, law: TenantLaw) -> None:
        """Puts a law into force that `law_under` gave, in the tenant whose it is.

        An older version never replaces a newer one, in whatever order they were read.
        """
        assert law.version is not None
        tenant_id = law.version.tenant_id
        known = self._laws.get(tenant_id)
        if known is None or known.version is None or known.version.version < law.version.version:
            self._laws[tenant_id] = law

    def forget(self, tenant_id: str) -> None:
        """Forgets a tenant whose seat is not held here any more."""
        self._laws.pop(tenant_id, None)


def task_facts(run: LiveRun, index: int, attempt: int) -> dict[str, Any]:
    """What articles may look at under ``task``."""
    task = run.tasks[index]
    return {
        "key": run.graph.keys[index],
        "kind": task.kind,
        "attempt": attempt,
        "priority": task.priority,
        "has_timeout": task.attempt_timeout_us is not None,
    }


def result_facts(end: Success | Failure) -> dict[str, Any]:
    """What articles may look at under ``result``."""
    if isinstance(end, Failure):
        return {"ok": False, "code": end.code, "output_bytes": 0}
    size = 0 if end.output is None else len(end.output.data)
    return {"ok": True, "code": "", "output_bytes": size}
