"""Judges a definition where no coordinator is: at a desk, or in CI.

Registration is judged, and the start of a run by a plain caller in a tenant that has nothing to
do. What depends on the installation, such as how busy the tenant is, can come out otherwise there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tenure_constitution import definitions, dimensions, facts
from tenure_constitution.article import Constitution, check_beneath
from tenure_constitution.dimensions import Assessment
from tenure_constitution.judge import Judge, Verdict
from tenure_constitution.laws import Point, VerdictResult

#: Facts of a caller and a tenant that nothing should be held against.
ASIDE: dict[str, dict[str, Any]] = {
    "principal": {"id": "check", "roles": ("submitter",)},
    "tenant": {
        "id": "check",
        "open_runs": 0,
        "open_tasks": 0,
        "live_leases": 0,
        "max_leases": 0,
    },
    "run": {"id": "check", "priority": 0, "labels": facts.NO_LABELS, "input_bytes": 2},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the constitution says of a definition."""

    register: Verdict
    start: Verdict
    dimensions: tuple[Assessment, ...]
    #: The facts under ``workflow`` that both were judged by.
    workflow: Mapping[str, Any]

    @property
    def result(self) -> VerdictResult:
        """The stricter of the two verdicts."""
        return max(self.register.result, self.start.result)


def check(
    canonical: Mapping[str, Any],
    *,
    platform: Constitution,
    tenant: Constitution | None = None,
    unix_seconds: float,
    run_labels: Mapping[str, str] | None = None,
) -> Report:
    """Judges a definition's canonical form as if it were registered and started at that time.

    The constitutions must have been admitted. Raises ConstitutionInvalid when the tenant's is not
    beneath the platform's.
    """
    if tenant is not None:
        check_beneath(platform, tenant)
    workflow = definitions.facts_of(canonical)
    given = ASIDE | {"workflow": workflow, "time": facts.of_time(unix_seconds)}
    if run_labels:
        given["run"] = given["run"] | {"labels": facts.Labels(run_labels)}
    judge = Judge(platform, tenant)
    return Report(
        register=judge.judge(Point.REGISTER, given),
        start=judge.judge(Point.START, given),
        dimensions=dimensions.of_workflow(workflow),
        workflow=workflow,
    )
