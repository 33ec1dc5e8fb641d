"""The five laws, and where each is enforced: facts of this code, not of its configuration.

Articles come on top. What is listed here holds whatever they say, and `tests/server/test_laws.py`
breaks each of it on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass

from tenure_constitution.laws import Law


@dataclass(frozen=True, slots=True)
class Enforcement:
    """One way in which a law is enforced."""

    #: What cannot happen, or always does, in a sentence.
    sentence: str
    #: The function or class that sees to it, by its full name.
    where: str


LAWS: dict[Law, tuple[Enforcement, ...]] = {
    Law.VERIFIABILITY: (
        Enforcement(
            "Every act is written into its log in the transaction of the act itself.",
            "tenure_server.store.writer.Writer.commit",
        ),
        Enforcement(
            "An event that follows from no act is not written.",
            "tenure_server.store.ledger.Ledger.pages",
        ),
    ),
    Law.PRECEDENCE: (
        Enforcement(
            "A graph with a cycle is refused.",
            "tenure_server.core.definitions.graph.Graph.build",
        ),
        Enforcement(
            "A task is leased only when all that it depends on has succeeded.",
            "tenure_server.core.runs.live.LiveRun.end_upstream_of",
        ),
        Enforcement(
            "A run is moved to another version only where what it has done keeps its order.",
            "tenure_server.core.desks.crossing.Crossing.check",
        ),
        Enforcement(
            "The articles of the platform and of the tenant are all judged, and the strictest "
            "counts.",
            "tenure_constitution.judge.Judge.judge",
        ),
    ),
    Law.PROVENANCE: (
        Enforcement(
            "Nothing is written for a tenant whose seat is not held.",
            "tenure_server.store.writer.Writer.commit",
        ),
        Enforcement(
            "The database refuses a run without its definition.",
            "tenure_server.store.tables.WorkflowRun",
        ),
    ),
    Law.REPRODUCIBILITY: (
        Enforcement(
            "A definition that does not have its digest any more is not used.",
            "tenure_server.engine.registry.KnownWorkflow.of",
        ),
        Enforcement(
            "A constitution that does not have its digest any more is not used.",
            "tenure_server.engine.constitutions.Constitutions.law_under",
        ),
    ),
    Law.INTEGRITY: (
        Enforcement(
            "A result counts only with the token and under the term of its lease, once.",
            "tenure_server.core.desks.desk.Desk.settle",
        ),
        Enforcement(
            "A log goes on only where it ended.",
            "tenure_server.store.ledger.Ledger",
        ),
    ),
}


def standing(law: Law) -> str:
    """How a law is enforced, in sentences."""
    return " ".join(one.sentence for one in LAWS[law])
