"""What everybody saw while things went wrong, and what the store held at the end.

Times are seconds of this machine's monotonic clock. A call whose answer never came has an empty
outcome: nobody knows what became of it.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from tenure_server.core.definitions.definition import WorkflowDefinition
from tenure_server.core.scheduling.schedules import FireLine, Schedule, Standing

#: Run id, task key and term: the name of a lease.
LeaseName = tuple[str, str, int]
#: What is said of a call that did what it was asked.
DONE = "OK"


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A client asked for a run, under a request id that it repeats until it is answered."""

    actor: str
    tenant: str
    workflow: str
    request_id: str
    began: float
    ended: float
    outcome: str
    run_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """A client asked for the end of a run."""

    actor: str
    tenant: str
    run_id: str
    began: float
    ended: float
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A client followed a run; events as (sequence, kind as evidence names it, task key, term)."""

    actor: str
    tenant: str
    run_id: str
    began: float
    ended: float
    events: Sequence[tuple[int, str, str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A client asked for a run whose start was acknowledged to it."""

    actor: str
    tenant: str
    run_id: str
    at: float
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The tenants' own things that one answer named, as (what, id), to a caller for `tenants`."""

    actor: str
    tenants: Sequence[str]
    at: float
    names: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """An agent was sent a lease that the coordinator had granted at `granted`."""

    agent: str
    tenant: str
    workflow: str
    lease: LeaseName
    granted: float
    received: float
    accept_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """An agent asked to keep a lease and was told how it stands: HELD, CANCELLING or LOST."""

    agent: str
    lease: LeaseName
    asked: float
    answered: float
    standing: str
    lease_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """An agent reported the end of an attempt (success, failure or stopped), or gave it back.

    The verdict is empty while none has come; each time that it is sent is a report of its own.
    """

    agent: str
    lease: LeaseName
    sent: float
    answered: float
    end: str
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Somebody asked for a change under one request id, as often as it took to be answered.

    `verb` is the kind of the act as evidence names it: `run.pause`, `task.skip`, `run.signal`.
    """

    actor: str
    tenant: str
    verb: str
    began: float
    ended: float
    outcome: str
    run_id: str = ""
    task: str = ""
    #: Of a signal or an event.
    name: str = ""
    #: The digest of what a signal or an event carried, and what told it from all others.
    content: str = ""
    token: str = ""
    #: Of an event that was acknowledged: how many tasks took it, and the runs that it started.
    served: int = 0
    started: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hindrance:
    """One thing that a task waits for, as it was explained."""

    kind: str
    tasks: Sequence[str] = ()
    name: str = ""
    key: str = ""
    child: str = ""
    count: int = -1
    limit: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """After the faults: why the tasks of an open run do not run, by key."""

    actor: str
    tenant: str
    run_id: str
    at: float
    tasks: Mapping[str, Sequence[Hindrance]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Struck:
    """A fault began or ended; for those who read the file."""

    what: str
    at: float


Observation = (
    Started
    | Cancelled
    | Watched
    | Read
    | Shown
    | Granted
    | Renewed
    | Settled
    | Asked
    | Explained
    | Struck
)
Observations = Sequence[Observation]


class StoredEvent(NamedTuple):
    """An event of a stored run. `entry` is the index of its evidence, -1 where there is none."""

    sequence: int
    kind: str
    task: str = ""
    term: int = 0
    entry: int = -1
    at: float = 0.0
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run as the store has it. `request_id` is what its label says of who asked for it."""

    tenant: str
    workflow: str
    state: str
    version: int = 1
    request_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    #: What JSON holds, None where there is nothing.
    input: Any = None
    output: Any = None
    #: Empty: it is nobody's.
    parent: str = ""
    parent_task: str = ""
    #: The digests of the signals that it keeps, by name, the oldest first.
    signals: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTask:
    """A task as the store has it."""

    state: str
    output: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSchedule:
    """A schedule as the store has it, with the lines of its history in order."""

    schedule: Schedule
    standing: Standing
    lines: Sequence[FireLine] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """An event of a run, in the order in which the tenant's log has it."""

    run_id: str
    sequence: int
    kind: str
    at: float
    task: str = ""
    term: int = 0
    agent: str = ""
    #: The digest of a task's output. Empty: it gave none.
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One piece of evidence, and what happened by it."""

    index: int
    kind: str
    items: Sequence[Happening] = ()
    at: float = 0.0
    #: What it names, in words.
    subject: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the store held at the end."""

    #: The most live leases of each tenant.
    tenants: Mapping[str, int] = field(default_factory=dict)
    #: By tenant, name and version.
    workflows: Mapping[tuple[str, str, int], WorkflowDefinition] = field(default_factory=dict)
    #: The slots of each agent, by its name.
    agents: Mapping[str, int] = field(default_factory=dict)
    runs: Mapping[str, StoredRun] = field(default_factory=dict)
    #: Those that have a row, by run and key.
    tasks: Mapping[tuple[str, str], StoredTask] = field(default_factory=dict)
    #: By tenant and name.
    schedules: Mapping[tuple[str, str], StoredSchedule] = field(default_factory=dict)
    #: The execution log of each run.
    events: Mapping[str, Sequence[StoredEvent]] = field(default_factory=dict)
    #: The evidence of each tenant.
    logs: Mapping[str, Sequence[Entry]] = field(default_factory=dict)
    #: Whose each id is that is no run's.
    owners: Mapping[str, str] = field(default_factory=dict)
    #: What the audit of the logs found.
    audit: Sequence[str] = ()

    def definition_of(self, run_id: str) -> WorkflowDefinition | None:
        """What a run is a run of. None: it is not known."""
        run = self.runs.get(run_id)
        return None if run is None else self.workflows.get((run.tenant, run.workflow, run.version))

    def act_of(self, run_id: str, event: StoredEvent) -> str:
        """The kind of the act by which something happened. Empty: it is not known."""
        log = self.logs.get(self.runs[run_id].tenant, ())
        return log[event.entry].kind if 0 <= event.entry < len(log) else ""


class History:
    """Collects observations, and writes each to a file as it comes, one JSON object a line."""

    def __init__(self, path: Path | None = None) -> None:
        self.observations: list[Observation] = []
        self._lock = threading.Lock()
        self._file: IO[str] | None = None if path is None else path.open("w")

    def add(self, observation: Observation) -> None:
        """Takes one more."""
        with self._lock:
            self.observations.append(observation)
            if self._file is not None:
                told = {"what": type(observation).__name__, **dataclasses.asdict(observation)}
                self._file.write(json.dumps(told) + "\n")

    def close(self) -> None:
        """Writes what is left."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read(path: Path) -> list[Observation]:
    """Reads a file of observations back."""
    kinds: dict[str, Any] = {each.__name__: each for each in Observation.__args__}
    found: list[Observation] = []
    for line in path.read_text().splitlines():
        told = json.loads(line)
        kind = kinds[told.pop("what")]
        if kind is Explained:
            told["tasks"] = {
                key: tuple(Hindrance(**{word: _tuples(one[word]) for word in one}) for one in why)
                for key, why in told["tasks"].items()
            }
        found.append(kind(**{word: _tuples(value) for word, value in told.items()}))
    return found


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
