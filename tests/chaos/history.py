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
from typing import IO, Any

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
    #: How long the attempt may take, however often the lease is renewed. None: as it likes.
    timeout_seconds: float | None = None


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
class Struck:
    """A fault began or ended; for those who read the file."""

    what: str
    at: float


Observation = Started | Cancelled | Watched | Read | Shown | Granted | Renewed | Settled | Struck
#: An event of a stored run: sequence, kind, task key, term, and the index of its evidence.
StoredEvent = tuple[int, str, str, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A registered workflow: its limit (0: none) and its graph."""

    max_leases: int
    upstream: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run as the store has it. `request_id` is what its label says of who asked for it."""

    tenant: str
    workflow: str
    state: str
    request_id: str = ""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One piece of evidence, and what happened by it."""

    index: int
    kind: str
    items: Sequence[Happening] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the store held at the end."""

    #: The most live leases of each tenant.
    tenants: Mapping[str, int] = field(default_factory=dict)
    #: By tenant and name.
    workflows: Mapping[tuple[str, str], Flow] = field(default_factory=dict)
    #: The slots of each agent, by its name.
    agents: Mapping[str, int] = field(default_factory=dict)
    runs: Mapping[str, StoredRun] = field(default_factory=dict)
    #: The execution log of each run.
    events: Mapping[str, Sequence[StoredEvent]] = field(default_factory=dict)
    #: The evidence of each tenant.
    logs: Mapping[str, Sequence[Entry]] = field(default_factory=dict)
    #: Whose each id is that is no run's.
    owners: Mapping[str, str] = field(default_factory=dict)
    #: What the audit of the logs found.
    audit: Sequence[str] = ()


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
        for name in ("lease", "events", "names", "tenants"):
            if name in told:
                told[name] = _tuples(told[name])
        found.append(kind(**told))
    return found


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
