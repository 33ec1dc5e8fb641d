"""What the desk needs of the constitution: a word on each lease and on each result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tenure_evidence.canonical import hash_text
from tenure_evidence.digests import constitution_digest
from tenure_server.core.evidence import Objection
from tenure_server.core.leasing.leases import AgentSlots, Success
from tenure_server.core.ledger.lifecycle import Failure
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.tasks import TaskFacts

#: The failure code of an attempt that the constitution does not allow.
DENIED = "DENIED"


class Law(Protocol):
    """The constitution in force in one tenant."""

    @property
    def digest(self) -> str:
        """Digest of the platform's and the tenant's articles together."""

    def on_lease(
        self, run: LiveRun, index: int, facts: TaskFacts, agent: AgentSlots, now_us: int
    ) -> Sequence[Objection]:
        """What stands against leasing this task to this agent."""

    def on_result(
        self, run: LiveRun, index: int, facts: TaskFacts, end: Success | Failure, now_us: int
    ) -> Sequence[Objection]:
        """What stands against this result."""


class Lawless:
    """No constitution at all."""

    digest = hash_text(constitution_digest(b"", b""))

    def on_lease(
        self, run: LiveRun, index: int, facts: TaskFacts, agent: AgentSlots, now_us: int
    ) -> Sequence[Objection]:
        """Nothing."""
        return ()

    def on_result(
        self, run: LiveRun, index: int, facts: TaskFacts, end: Success | Failure, now_us: int
    ) -> Sequence[Objection]:
        """Nothing."""
        return ()


def denial(objections: Sequence[Objection]) -> Failure | None:
    """The failure that follows from objections. None: they only warn."""
    for one in objections:
        if one.denies:
            return Failure(DENIED, one.sentence)
    return None
