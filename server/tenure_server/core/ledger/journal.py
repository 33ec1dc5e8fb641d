"""The rows that decisions leave behind: what the store writes in one transaction.

The engine decides in memory and collects rows here; nothing is acknowledged and no lease is sent
before the store has committed them. Rows are plain tuples in the order of the columns below,
because tens of thousands are made a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tenure_server.core.evidence import Act, Draft, Objection
from tenure_server.core.ledger.items import Said
from tenure_server.core.ledger.lifecycle import RunState
from tenure_server.core.scheduling.schedules import ScheduleChange

Row = tuple[Any, ...]


class RunRows(Protocol):
    """What can give the rows of a run."""

    tenant_id: str
    correlation_id: str
    state: RunState

    def row(self) -> Row:
        """The row of `RUN_COLUMNS`."""

    def change_row(self) -> Row:
        """The row of `RUN_CHANGE_COLUMNS`."""

    def moved_row(self) -> Row:
        """The row of `RUN_MOVED_COLUMNS`."""

    def term_rows(self, *, new: bool) -> Sequence[Row]:
        """The rows of `TERM_COLUMNS` that come with its row, or with a change of it."""


#: A run when it is accepted.
RUN_COLUMNS = (
    "tenant_id",
    "run_id",
    "workflow",
    "workflow_version",
    "workflow_digest",
    "state",
    "priority",
    "labels",  # JSON text
    "input",  # bytes or None
    "input_type",
    "correlation_id",
    "started_by",
    "reason",
    "task_count",
    "succeeded",
    "failed",
    "upstream_failed",
    "cancelled",
    "create_us",
    "start_us",  # None until the first lease
    "end_us",  # None until it has ended
    "constitution_digest",
    "skipped",
    "parent_run_id",  # empty: nobody's
    "parent_task",
    "deadline_us",  # None: without end
    "detail",  # JSON text or None, see `LiveRun.detail`
    "output",  # bytes or None
    "output_type",
)
#: A run when it changes; keyed by (tenant_id, run_id).
RUN_CHANGE_COLUMNS = (
    "tenant_id",
    "run_id",
    "state",
    "reason",
    "succeeded",
    "failed",
    "upstream_failed",
    "cancelled",
    "start_us",
    "end_us",
    "skipped",
    "task_count",
    "detail",
    "output",
    "output_type",
)
#: A run that is put under another version; keyed by (tenant_id, run_id).
RUN_MOVED_COLUMNS = (
    "tenant_id",
    "run_id",
    "workflow_version",
    "workflow_digest",
    "deadline_us",
)
#: A task that keeps its row when its run is moved; keyed by (tenant_id, run_id, task_index). Rows
#: of such a run that are not named are gone.
TASK_MOVED_COLUMNS = (
    "tenant_id",
    "run_id",
    "task_index",
    "moved_index",  # its number in the other version
    "detail",
)
#: A task that was leased at least once or has ended; keyed by (tenant_id, run_id, task_index). A
#: task without a row waits, or is ready when all it depends on has succeeded.
TASK_COLUMNS = (
    "tenant_id",
    "run_id",
    "task_index",
    "task_key",
    "state",
    "attempt",
    "term",
    "lost",  # leases lost without its fault
    "agent",
    "holder",  # id of the key that the last lease was granted to
    "token_hash",  # SHA-256 of the last lease's token, or None
    "lease_us",
    "end_us",
    "retry_us",
    "result_hash",  # SHA-256 of the last result under this term, or None
    "failure_code",  # None: its last attempt did not fail, or there was none
    "failure_message",
    "output",  # bytes or None
    "output_type",
    "checkpoint",
    "checkpoint_type",
    "detail",  # JSON text or None, see `TaskFacts.detail`
)
#: One event of a run's log; keyed by (tenant_id, run_id, sequence). The rows here end before the
#: last column, which only the store can fill.
EVENT_COLUMNS = (
    "tenant_id",
    "run_id",
    "sequence",
    "at_us",
    "kind",
    "task_key",  # empty for the whole run
    "attempt",
    "term",
    "agent",
    "code",
    "message",
    "entry_index",  # the evidence of the act that caused it; None when none is kept
)
#: A term under which a run is found; keyed by (tenant_id, run_id, term). One that is there already
#: stays as it is.
TERM_COLUMNS = ("tenant_id", "run_id", "term", "create_us")
#: A mutation that was answered; keyed by (tenant_id, request_id).
REQUEST_COLUMNS = ("tenant_id", "request_id", "method", "digest", "response", "at_us")


@dataclass(slots=True)
class Changes:
    """What one transaction writes. Each row list has the columns named above."""

    #: The seats under which the decisions were made: tenant id to term. The commit fails when one
    #: has moved.
    seats: dict[str, int] = field(default_factory=dict)
    runs: list[Row] = field(default_factory=list)
    #: Runs that had ended and are open again, as they were then; written before `run_changes`.
    runs_reopened: list[Row] = field(default_factory=list)
    #: Runs that were put under another version, and the rows that their tasks keep; written after
    #: those that were reopened.
    runs_moved: list[Row] = field(default_factory=list)
    tasks_moved: list[Row] = field(default_factory=list)
    run_changes: list[Row] = field(default_factory=list)
    terms: list[Row] = field(default_factory=list)
    #: Upserts; at most one a task.
    tasks: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    #: What the item of each event says beyond it. Empty when no evidence is kept.
    said: list[Said] = field(default_factory=list)
    #: The acts that all this follows from.
    drafts: list[Draft] = field(default_factory=list)
    requests: list[Row] = field(default_factory=list)
    #: What was decided of schedules, in order.
    schedules: list[ScheduleChange] = field(default_factory=list)
    #: Correlation ids of the runs that began, changed or ended, for whoever tells of the events.
    correlations: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(
            self.drafts
            or self.runs
            or self.run_changes
            or self.tasks
            or self.events
            or self.requests
            or self.schedules
        )


class Journal:
    """Collects rows until they are sealed into the changes of one transaction."""

    __slots__ = (
        "_constitution_of",
        "_drafts",
        "_requests",
        "_runs",
        "_runs_changed",
        "_runs_moved",
        "_runs_reopened",
        "_schedules",
        "_seats",
        "_tasks",
        "_tasks_moved",
        "events",
        "keeps_evidence",
        "objections",
        "said",
    )

    def __init__(
        self,
        constitution_of: Callable[[str], str] = lambda _: "",
        *,
        keeps_evidence: bool = True,
    ) -> None:
        """`constitution_of` gives the digest of the constitution in force in a log."""
        self.keeps_evidence = keeps_evidence
        self._constitution_of = constitution_of
        self._begin()

    def _begin(self) -> None:
        self.events: list[Row] = []
        self.said: list[Said] = []
        #: What the constitution has against the act that is going on.
        self.objections: list[tuple[str, Objection]] = []
        self._drafts: list[Draft] = []
        self._runs: dict[str, RunRows] = {}
        self._runs_changed: dict[str, RunRows] = {}
        self._runs_reopened: list[Row] = []
        self._runs_moved: list[Row] = []
        self._tasks_moved: list[Row] = []
        self._tasks: dict[tuple[str, int], Row] = {}
        self._requests: list[Row] = []
        self._schedules: list[ScheduleChange] = []
        self._seats: dict[str, int] = {}

    def act(
        self,
        act: Act,
        since: int,
        now_us: int,
        tenant_ids: Iterable[str] = (),
    ) -> list[Draft]:
        """Closes an act: whatever happened since event number `since` follows from it.

        It goes into the log of every tenant to which something happened, and of those named.
        """
        happened: dict[str, Sequence[int]] = dict.fromkeys(tenant_ids, ())
        return self.draft(act, happened | self.happened(since), now_us)

    def happened(self, since: int) -> dict[str, Sequence[int]]:
        """The numbers of the events since one of them, by tenant."""
        events = self.events
        tenant_ids = {row[0] for row in events[since:]}
        if len(tenant_ids) == 1:
            # As nearly always, and a range is cut out of lists in one piece.
            return {tenant_ids.pop(): range(since, len(events))}
        found: dict[str, list[int]] = {}
        for number in range(since, len(events)):
            found.setdefault(events[number][0], []).append(number)
        return dict(found)

    def draft(
        self,
        act: Act,
        happened: Mapping[str, Sequence[int]],
        now_us: int,
        *,
        mandate: bool = False,
    ) -> list[Draft]:
        """Closes an act of which is known what happened, by tenant."""
        if self.objections:
            self.settle_objections(act)
        act.taken = True
        if not self.keeps_evidence:
            return []
        constitution_of = self._constitution_of
        drafts = [
            Draft(act, tenant_id, now_us, constitution_of(tenant_id), numbers, mandate)
            for tenant_id, numbers in happened.items()
        ]
        self._drafts += drafts
        return drafts

    def object(self, tenant_id: str, objections: Iterable[Objection]) -> None:
        """Notes what a tenant's constitution has against the act that is going on."""
        self.objections += [(tenant_id, one) for one in objections]

    def settle_objections(self, act: Act) -> None:
        """Notes on an act what was found against it until now."""
        for tenant_id, one in self.objections:
            act.object(tenant_id, (one,))
        self.objections.clear()

    def under(self, tenant_id: str, term: int) -> None:
        """Notes that decisions are made under this seat."""
        self._seats[tenant_id] = term

    def run_started(self, run_id: str, run: RunRows) -> None:
        """Notes a new run; its row is made at the seal, so that it holds what follows till then."""
        self._runs[run_id] = run

    def run_changed(self, run_id: str, run: RunRows) -> None:
        """Notes that a run's row is stale."""
        if run_id not in self._runs:
            self._runs_changed[run_id] = run

    def run_reopened(self, run_id: str, run: RunRows) -> None:
        """Notes that a run which had ended is open again, though it may end before the seal."""
        self._runs_reopened.append(run.change_row())
        self.run_changed(run_id, run)

    def run_moved(self, run_id: str, run: RunRows, tasks: Iterable[Row]) -> None:
        """Notes that a run is under another version, and which rows of its tasks are kept.

        Whatever was noted of its tasks before is void: their numbers mean others now.
        """
        for key in [key for key in self._tasks if key[0] == run_id]:
            del self._tasks[key]
        self._runs_moved.append(run.moved_row())
        self._tasks_moved += tasks
        self.run_changed(run_id, run)

    def task(self, run_id: str, index: int, row: Row) -> None:
        """Notes a task's row; a later one of the same transaction replaces it."""
        self._tasks[run_id, index] = row

    def request(self, row: Row) -> None:
        """Notes what was answered to a mutation."""
        self._requests.append(row)

    def schedule(self, change: ScheduleChange) -> None:
        """Notes what was decided of a schedule."""
        self._schedules.append(change)

    def touched(self) -> Iterator[tuple[str, RunRows]]:
        """The runs that began, changed or ended since the last seal."""
        yield from self._runs.items()
        yield from self._runs_changed.items()

    def reopened(self) -> Iterator[tuple[str, str]]:
        """Tenant and id of the runs that had ended and were opened again since the last seal."""
        for tenant_id, run_id, *_ in self._runs_reopened:
            yield tenant_id, run_id

    def seal(self) -> Changes:
        """Gives everything collected, and starts anew."""
        touched = self._runs | self._runs_changed
        terms = [row for run in self._runs.values() for row in run.term_rows(new=True)]
        terms += [row for run in self._runs_changed.values() for row in run.term_rows(new=False)]
        changes = Changes(
            seats=self._seats,
            runs=[run.row() for run in self._runs.values()],
            runs_reopened=self._runs_reopened,
            runs_moved=self._runs_moved,
            tasks_moved=self._tasks_moved,
            run_changes=[run.change_row() for run in self._runs_changed.values()],
            terms=terms,
            tasks=list(self._tasks.values()),
            events=self.events,
            said=self.said,
            drafts=self._drafts,
            requests=self._requests,
            schedules=self._schedules,
            correlations={run_id: run.correlation_id for run_id, run in touched.items()},
        )
        self._begin()
        return changes
