"""Values that the store gives back: tenants, keys, workflows, runs, tasks and events."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tenure_constitution.facts import NO_LABELS, Labels
from tenure_server.core.definitions.definition import Payload
from tenure_server.core.evidence import Act, Objection
from tenure_server.core.ledger.lifecycle import EventKind, Failure, RunState, TaskState


class Role(enum.IntEnum):
    """What a principal may do. Numbers as in the contract."""

    VIEWER = 1
    SUBMITTER = 2
    AGENT = 3
    TENANT_ADMIN = 4
    OPERATOR = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A tenant and its limits."""

    tenant_id: str
    display_name: str
    max_leases: int
    weight: int
    create_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """That nothing new is leased of a workflow, or with an empty name of the whole tenant."""

    workflow: str
    reason: str
    pause_us: int
    #: The id of the key. Empty: an operator's.
    paused_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A principal: an API key without its secret. Its tenants are sorted; none for an operator."""

    api_key_id: str
    name: str
    #: SHA-256 of the secret.
    secret_hash: bytes
    roles: frozenset[Role]
    tenant_ids: tuple[str, ...]
    create_us: int
    expire_us: int | None = None
    revoke_us: int | None = None

    def valid_at(self, now_us: int) -> bool:
        """Whether the key works at this time."""
        return self.revoke_us is None and (self.expire_us is None or now_us < self.expire_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """One registered version of a workflow. `canonical` is empty where it was not asked for."""

    tenant_id: str
    name: str
    version: int
    digest: str
    task_count: int
    dependency_count: int
    create_us: int
    created_by: str
    canonical: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstitutionVersion:
    """One version of a tenant's constitution."""

    tenant_id: str
    version: int
    digest: str
    canonical: bytes
    create_us: int
    created_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as the tables have it."""

    tenant_id: str
    run_id: str
    workflow: str
    workflow_version: int
    workflow_digest: str
    state: RunState
    priority: int
    labels: dict[str, str]
    input: Payload | None
    correlation_id: str
    started_by: str
    reason: str
    task_count: int
    succeeded: int
    failed: int
    upstream_failed: int
    cancelled: int
    create_us: int
    start_us: int | None
    end_us: int | None
    #: Empty: it was started before there was a constitution.
    constitution_digest: str = ""
    skipped: int = 0
    #: The run and the task that it was started for. Empty: for none.
    parent_run_id: str = ""
    parent_task: str = ""
    deadline_us: int | None = None
    #: JSON, see `LiveRun.detail`. None: there is none.
    detail: str | None = None
    output: Payload | None = None

    def facts(self) -> dict[str, Any]:
        """What articles may look at under ``run``."""
        return {
            "id": self.run_id,
            "priority": self.priority,
            "labels": Labels(self.labels) if self.labels else NO_LABELS,
            "input_bytes": 0 if self.input is None else len(self.input.data),
        }


@dataclass(frozen=True, slots=True)
class EarlierVersion:
    """A version of its workflow that a run was under before it was moved."""

    version: int
    digest: str
    #: The number of the event by which it was moved away, and when that was.
    until_sequence: int
    until_us: int


def earlier_versions(detail: Mapping[str, Any] | None) -> list[EarlierVersion]:
    """The versions that a run was under, the first one first, by what is kept of it as `detail`."""
    return [EarlierVersion(*move) for move in (detail or {}).get("moves", ())]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task that has a row; see `journal.TASK_COLUMNS`."""

    run_id: str
    task_index: int
    task_key: str
    state: TaskState
    attempt: int
    term: int
    lost: int
    agent: str
    holder: str
    token_hash: bytes | None
    lease_us: int | None
    end_us: int | None
    retry_us: int | None
    result_hash: bytes | None
    failure: Failure | None
    output: Payload | None
    checkpoint: Payload | None
    #: JSON, see `TaskFacts.detail`. None: there is none.
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of a run's log."""

    run_id: str
    sequence: int
    at_us: int
    kind: EventKind
    task_key: str
    attempt: int
    term: int
    agent: str
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A coordinator's lease on a tenant: who decides for it, under which term, until when."""

    tenant_id: str
    #: A name of the coordinator process, unique among all there ever were.
    holder: str
    #: Where the holder is reached, such as ``10.0.0.7:7233``.
    address: str
    term: int
    until_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A signed checkpoint of a log. The tenant is empty for the installation's own."""

    tenant_id: str
    size: int
    note: str
    create_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """An entry as the store has it. Items are None where they were pruned or not asked for."""

    index: int
    entry: bytes
    items: tuple[bytes, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was answered to a mutation under a request id."""

    method: str
    #: SHA-256 over the request without its id.
    digest: bytes
    #: The serialised response.
    response: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an act comes from: its tenant, the key that asked, and the id of its causal chain."""

    tenant_id: str
    api_key_id: str
    correlation_id: str
    #: What is noted of the call. None where there is none to note.
    act: Act | None = None
    #: Of acts of its own: the roles of the caller, and what they are about.
    roles: tuple[str, ...] = ()
    subject: Mapping[str, str] = field(default_factory=dict)

    def acting(self, kind: str) -> Act:
        """The call as an act, or an act of its own where the call has none."""
        if self.act is not None and not self.act.taken:
            return self.act
        return Act(
            kind=kind,
            principal=self.api_key_id,
            roles=self.roles,
            correlation_id=self.correlation_id,
            subject=dict(self.subject),
        )

    def for_one(self, run_id: str) -> Origin:
        """The same caller, who asks for many runs, for one of them: each is an act of its own."""
        roles = self.roles if self.act is None else self.act.roles
        return replace(self, act=None, roles=roles, subject={"run": run_id})


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What makes a mutation safe to repeat: its id, its method, and the digest of what it asked."""

    request_id: str
    method: str
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """The run and the task that a run is started for."""

    run_id: str
    task: str
    #: By when the parent must have ended, or None.
    deadline_us: int | None
    #: What the new run keeps, see `LiveRun.detail`.
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRun:
    """One run to start. Version 0 is the newest."""

    workflow: str
    version: int = 0
    input: Payload | None = None
    priority: int = 0
    labels: dict[str, str]
    request: Request | None = None
    #: What the input is called in the call, for refusals.
    input_path: str = "input"
    parent: Parent | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedRun:
    """A run that was started, now or under the same request id before."""

    run_id: str
    version: int
    digest: str
    #: Articles that warn of it. None for one that was started before.
    warnings: tuple[Objection, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Tasks of a run by state; they add up to `total`."""

    total: int
    waiting: int
    ready: int
    leased: int
    retrying: int
    succeeded: int
    failed: int
    upstream_failed: int
    cancelled: int
    skipped: int
    active: int

    @classmethod
    def of(cls, tallies: Sequence[int]) -> Counts:
        """How many there are in each state, from as many by number of the state."""
        return cls(
            total=sum(tallies),
            waiting=tallies[TaskState.WAITING],
            ready=tallies[TaskState.READY],
            leased=tallies[TaskState.LEASED],
            retrying=tallies[TaskState.RETRYING],
            succeeded=tallies[TaskState.SUCCEEDED],
            failed=tallies[TaskState.FAILED],
            upstream_failed=tallies[TaskState.UPSTREAM_FAILED],
            cancelled=tallies[TaskState.CANCELLED],
            skipped=tallies[TaskState.SKIPPED],
            active=tallies[TaskState.ACTIVE],
        )


class AgentPresence(enum.IntEnum):
    """Whether an agent is on the line. Numbers as in the contract."""

    CONNECTED = 1
    DRAINING = 2
    DISCONNECTED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """An agent as one of its tenants sees it; `leases` counts those of that tenant."""

    agent_id: str
    name: str
    kinds: tuple[str, ...]
    slots: int
    leases: int
    labels: dict[str, str]
    presence: AgentPresence
    connect_us: int
    seen_us: int
