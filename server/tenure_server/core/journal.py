"""The rows that decisions leave behind: what the store writes in one transaction.

The engine decides in memory and collects rows here; nothing is acknowledged and no lease is sent
before the store has committed them. Rows are plain tuples in the order of the columns below,
because tens of thousands are made a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

Row = tuple[Any, ...]


class RunRows(Protocol):
    """What can give the rows of a run."""

    correlation_id: str

    def row(self) -> Row:
        """The row of `RUN_COLUMNS`."""

    def change_row(self) -> Row:
        """The row of `RUN_CHANGE_COLUMNS`."""


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
)
#: One event of a run's log; keyed by (tenant_id, run_id, sequence).
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
)
#: A mutation that was answered; keyed by (tenant_id, request_id).
REQUEST_COLUMNS = ("tenant_id", "request_id", "method", "digest", "response", "at_us")


@dataclass(slots=True)
class Changes:
    """What one transaction writes. Each row list has the columns named above."""

    #: The seats under which the decisions were made: tenant id to term. The commit fails when one
    #: has moved.
    seats: dict[str, int] = field(default_factory=dict)
    runs: list[Row] = field(default_factory=list)
    run_changes: list[Row] = field(default_factory=list)
    #: Upserts; at most one a task.
    tasks: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    requests: list[Row] = field(default_factory=list)
    #: Correlation ids of the runs that began, changed or ended, for whoever tells of the events.
    correlations: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.runs or self.run_changes or self.tasks or self.events or self.requests)


class Journal:
    """Collects rows until they are sealed into the changes of one transaction."""

    __slots__ = ("_requests", "_runs", "_runs_changed", "_seats", "_tasks", "events")

    def __init__(self) -> None:
        self.events: list[Row] = []
        self._runs: dict[str, RunRows] = {}
        self._runs_changed: dict[str, RunRows] = {}
        self._tasks: dict[tuple[str, int], Row] = {}
        self._requests: list[Row] = []
        self._seats: dict[str, int] = {}

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

    def task(self, run_id: str, index: int, row: Row) -> None:
        """Notes a task's row; a later one of the same transaction replaces it."""
        self._tasks[run_id, index] = row

    def request(self, row: Row) -> None:
        """Notes what was answered to a mutation."""
        self._requests.append(row)

    def seal(self) -> Changes:
        """Gives everything collected, and starts anew."""
        touched = self._runs | self._runs_changed
        changes = Changes(
            seats=self._seats,
            runs=[run.row() for run in self._runs.values()],
            run_changes=[run.change_row() for run in self._runs_changed.values()],
            tasks=list(self._tasks.values()),
            events=self.events,
            requests=self._requests,
            correlations={run_id: run.correlation_id for run_id, run in touched.items()},
        )
        self.__init__()  # type: ignore[misc]
        return changes
