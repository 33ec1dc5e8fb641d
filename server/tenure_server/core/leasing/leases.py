"""Leases and who holds them.

A slot in use *is* a live lease: limits are the sizes of the dictionaries that hold the leases,
never counters that go up and down, so that none can leak.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Any

from tenure_constitution.facts import Labels
from tenure_evidence.digests import failure_digest, stopped_digest, success_digest
from tenure_server.core.definitions.definition import Payload, WorkflowTask
from tenure_server.core.evidence import Draft
from tenure_server.core.ledger.lifecycle import Failure
from tenure_server.core.runs.gates import NO_LABELS, AgentName, Gate, LabelSet
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.tasks import TaskFacts

TOKEN_BYTES = 16

#: Gives that many random bytes.
Draw = Callable[[int], bytes]

#: Names a lease among all: run id and task number.
LeaseKey = tuple[str, int]
#: One of the slots that a lease takes beyond its first: the lease, and which of them.
ExtraSlot = tuple[LeaseKey, int]


@dataclass(frozen=True, slots=True)
class Success:
    """The end of an attempt that worked."""

    output: Payload | None = None


class Stopped(enum.Enum):
    """The end of an attempt that was stopped before it could end by itself."""

    STOPPED = "stopped"


STOPPED = Stopped.STOPPED

#: The end of one attempt.
End = Success | Failure | Stopped


class Lease:
    """The right of one agent to execute one attempt of a task."""

    __slots__ = (
        "accepted",
        "agent",
        "attempt",
        "cancelling",
        "checkpoint",
        "deadline_us",
        "event",
        "gate",
        "grant",
        "grant_sequence",
        "grant_us",
        "heard_us",
        "index",
        "input",
        "key",
        "progress",
        "run",
        "task",
        "task_key",
        "term",
        "token",
        "until_us",
        "upstream",
    )

    def __init__(
        self,
        run: LiveRun,
        index: int,
        agent: AgentSlots,
        *,
        term: int,
        attempt: int,
        token: bytes,
        until_us: int,
        accepted: bool,
        checkpoint: Payload | None = None,
        upstream: dict[str, Payload] | None = None,
    ) -> None:
        self.run = run
        self.index = index
        self.key: LeaseKey = (run.run_id, index)
        self.task: WorkflowTask = run.tasks[index]
        self.task_key = run.graph.keys[index]
        #: The limits it is held to, beside those of all leases.
        self.gate: Gate | None = None
        #: What its handler is given as the task's own.
        self.input = self.task.input
        self.agent = agent
        self.term = term
        self.attempt = attempt
        #: The secret; empty when the lease was read back from the store, which has only its hash.
        self.token = token
        self.until_us = until_us
        #: When the attempt must be over, or None.
        self.deadline_us: int | None = None
        self.accepted = accepted
        #: Why the attempt is to be stopped. Empty: it is not.
        self.cancelling = ""
        self.checkpoint = checkpoint
        #: What the handler last said: how far it is, 0 to 1, and what it does. Memory only.
        self.progress: tuple[float, str] | None = None
        #: When it last told of progress or a checkpoint. Memory only.
        self.heard_us = 0
        self.upstream = upstream or {}
        #: The act that granted it, and its event in the journal then. None: it was read back.
        self.grant: Draft | None = None
        self.event = -1
        self.grant_us = 0
        self.grant_sequence = 0


@dataclass(slots=True, eq=False)
class AgentSlots:
    """What an agent can take and what it holds, over all tenants that it serves."""

    name: str
    #: Id of the key it calls with; its leases are bound to it.
    holder: str
    kinds: frozenset[str] = frozenset()
    slots: int = 0
    #: How many leases may be sent to it now.
    credits: int = 0
    leases: dict[LeaseKey, Lease] = field(default_factory=dict)
    #: The slots that leases of more weight than one take beyond their first.
    extra: set[ExtraSlot] = field(default_factory=set)
    labels: LabelSet = NO_LABELS
    #: Whether its free slots are kept for a task that needs more of them.
    kept: bool = False
    #: Whether it was passed over for an agent that is preferred.
    passed_over: bool = False
    #: What articles may look at under ``agent``; see `introduce`.
    facts: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.introduce({})

    def introduce(self, labels: Mapping[str, str]) -> None:
        """Notes what the agent says of its host."""
        self.facts = {"name": self.name, "labels": Labels(labels)}
        self.labels = frozenset(labels.items())

    @property
    def key(self) -> AgentName:
        """Holder and name."""
        return self.holder, self.name

    @property
    def free_slots(self) -> int:
        """How many slots are not taken by live leases."""
        return self.slots - len(self.leases) - len(self.extra)

    @property
    def free(self) -> int:
        """How many leases it can be granted now."""
        return min(self.credits, self.slots - len(self.leases) - len(self.extra))


def extra_slots(key: LeaseKey, weight: int) -> set[ExtraSlot]:
    """The slots that a lease takes beyond its first."""
    return {(key, number) for number in range(1, weight)}


def tokens(draw: Draw) -> Iterator[bytes]:
    """Secrets for new leases, without end."""
    while True:
        # Many at once: each draw is a call to the system.
        block = draw(TOKEN_BYTES * 64)
        for start in range(0, len(block), TOKEN_BYTES):
            yield block[start : start + TOKEN_BYTES]


#: Most tasks of a large fan-out end like this.
_SUCCESS_DIGEST = success_digest(None)


def result_digest(end: End) -> bytes:
    """The digest by which a repeated result is told from another one."""
    match end:
        case Success(output=Payload() as output):
            return success_digest(output.digest())
        case Success():
            return _SUCCESS_DIGEST
        case Failure():
            return failure_digest(end.code, end.message)
        case _:
            return stopped_digest()


def proves(facts: TaskFacts, token: bytes, holder: str) -> bool:
    """Whether these words come from the holder of the last lease."""
    return facts.holder == holder and compare_digest(
        facts.token_hash, hashlib.sha256(token).digest()
    )
