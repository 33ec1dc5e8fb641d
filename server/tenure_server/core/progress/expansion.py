"""Tasks that are made of one task for each item of a list.

The task is ACTIVE while its items are executed, and ends when they all have ended. Items are tasks
beside the graph (see `extensions`), woken in their order, so many at a time as there are places.
Which of them have a place follows from the states alone: whoever reads a run back wakes the first
ones that wait until the places are taken, and these are the ones that were awake before.

Of `TaskFacts.detail` these keys belong here: ``items``, the list, and ``stopping``, the code and
the message with which the task will fail once its last item has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from tenure_server.core.definitions.features import RUN_TASKS_MAX, ForEach
from tenure_server.core.definitions.payloads import PAYLOAD_BYTES_MAX, REFERENCE_TYPE, Payload
from tenure_server.core.expressions.evaluation import EvaluationFailed
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import TASK_ENDED, EventKind, Failure, RunState, TaskState
from tenure_server.core.runs import data_flow, run_data
from tenure_server.core.runs.extensions import ITEMS, Extension
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.rows import write_task
from tenure_server.core.runs.run_data import MESSAGE_CHARACTERS_MAX
from tenure_server.core.runs.tasks import TaskFacts

if TYPE_CHECKING:
    from tenure_server.core.progress.consequences import Consequences

EXPANSION_FAILED = "EXPANSION_FAILED"
ITEMS_TOO_MANY = "ITEMS_TOO_MANY"
ITEMS_TOO_LARGE = "ITEMS_TOO_LARGE"
ITEMS_FAILED = "ITEMS_FAILED"
OUTPUT_TOO_LARGE = "OUTPUT_TOO_LARGE"
#: Of an item whose output cannot be part of a list.
OUTPUT_NOT_JSON = "OUTPUT_NOT_JSON"

_NULL = b"null"
#: How many of the failed items a message names.
_NAMED_MAX = 5
#: A state that ends nothing and that an item leaves when it is woken.
_WAITING = TaskState.WAITING


@dataclass(slots=True)
class _Course:
    """How far the items of one task are. Memory only: it follows from their states."""

    declared: ForEach
    #: The numbers of the items' tasks, in their order.
    parts: Sequence[int]
    #: How many may be awake at once.
    places: int
    #: How many have not ended.
    open: int
    awake: int = 0
    #: Those before this one are awake or have ended.
    next: int = 0
    failed: int = 0
    #: Of the list of outputs as far as it is known: brackets, and commas between.
    bytes: int = 1
    stopping: bool = False
    #: Items are being woken, further up in the calls.
    busy: bool = False


class Expansion:
    """The tasks with `for_each` of one desk."""

    def __init__(self, consequences: Consequences) -> None:
        self._consequences = consequences
        self._courses: dict[tuple[str, int], _Course] = {}

    # -- as an activity

    def begin(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """Works out the list, makes the tasks, and wakes the first of them."""
        items = (facts.detail or {}).get("items")
        if items is None:
            items = _items(run, index)
        if isinstance(items, Failure):
            self._consequences.fail(run, index, facts, items, now_us)
            return
        facts.keep(items=items)
        run.keep_list(index, items)
        self._make(run, index, len(items), now_us)
        kind, said = EventKind.TASK_ACTIVATED, f"{len(items)} items"
        self._consequences.note(run, index, facts, kind, said, now_us)
        self._take_up(run, index, facts, len(items))
        self._go_on(run, index, now_us)

    def due(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """It sets no alarm."""

    def part_ended(self, run: LiveRun, index: int, part: int, now_us: int) -> None:
        """Counts the end of an item, and lets the next one have its place."""
        course = self._courses[run.run_id, index]
        course.open -= 1
        if run.extension_of(part)[1] < course.next:
            course.awake -= 1
        if not course.stopping:
            self._weigh(run, index, course, part, now_us)
        self._go_on(run, index, now_us)

    def cancel(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """Ends its items at once, unless all of its run is ended anyway."""
        if run.state in (RunState.CANCELLING, RunState.CLOSED):
            self._courses.pop((run.run_id, index), None)
        else:
            self.abandon(run, index, now_us)

    def leave(self, run: LiveRun, index: int, facts: TaskFacts) -> None:
        """Forgets how far its items are: it follows from their states."""
        self._courses.pop((run.run_id, index), None)

    def restore(self, run: LiveRun, index: int, facts: TaskFacts, now_us: int) -> None:
        """Counts where its items stand, and wakes those that were awake."""
        detail = facts.detail or {}
        course = self._take_up(run, index, facts, len(detail.get("items", ())))
        if course.stopping:
            _, message = detail["stopping"]
            for part in course.parts:
                if run.states[part] == TaskState.LEASED:
                    self._consequences.attempts.stop_attempt(run, part, message)
        elif course.failed:
            # If its run was moved, fewer may fail than before.
            failed = [part for part in course.parts if run.states[part] == TaskState.FAILED]
            self._bound_failures(run, index, course, failed[-1], now_us)
        self._go_on(run, index, now_us)

    # -- what else is asked about items

    def is_stopping(self, run: LiveRun, part: int) -> bool:
        """Whether a task is an item that will not be tried again, as its list has failed."""
        extension, _ = run.extension_of(part)
        course = self._courses.get((run.run_id, extension.of))
        return extension.kind == ITEMS and course is not None and course.stopping

    def abandon(self, run: LiveRun, index: int, now_us: int) -> None:
        """Ends every item at once, those with a lease too: their task ends otherwise."""
        self._courses.pop((run.run_id, index), None)
        why = f"task {run.graph.keys[index]} has ended"
        for part in run.parts_of(index):
            state = run.states[part]
            if state == TaskState.LEASED:
                self._consequences.attempts.end_attempt(run, part, why)
            if state not in TASK_ENDED:
                self._consequences.cancel(run, part, now_us)
            run.forget_output(part)

    # -- how it goes on

    def _make(self, run: LiveRun, index: int, count: int, now_us: int) -> None:
        """Makes the tasks that are not there yet; those that are there but in the list no more end.

        A list has another length than before when the task is executed again and gives another one.
        """
        known = run.parts_of(index)
        more = count - len(known)
        if more > 0:
            run.extend(Extension(ITEMS, index, more, len(known)))
            self._consequences.open_tasks += more
            self._consequences.under().run_changed(run.run_id, run)
        for part in known[count:]:
            if run.states[part] not in TASK_ENDED:
                why = "it is in the list no more"
                self._consequences.turns.end_unbegun(run, part, TaskState.SKIPPED, why, now_us)

    def _take_up(self, run: LiveRun, index: int, facts: TaskFacts, count: int) -> _Course:
        declared = run.tasks[index].for_each
        assert declared is not None
        parts, states = run.parts_of(index)[:count], run.states
        course = _Course(
            declared=declared,
            parts=parts,
            places=declared.parallelism or count,
            open=sum(states[part] not in TASK_ENDED for part in parts),
            failed=sum(states[part] == TaskState.FAILED for part in parts),
            stopping="stopping" in (facts.detail or {}),
        )
        waiting = [place for place, part in enumerate(parts) if states[part] == _WAITING]
        course.awake = course.open - len(waiting)
        course.next = waiting[0] if waiting else count
        for part in parts:
            if states[part] in TASK_ENDED:
                course.bytes += self._bytes_of(run, part)
        self._courses[run.run_id, index] = course
        return course

    def _go_on(self, run: LiveRun, index: int, now_us: int) -> None:
        course = self._courses[run.run_id, index]
        if course.busy:
            return
        course.busy = True
        # An item may end while it is woken.
        while not course.stopping and course.awake < course.places:
            if course.next == len(course.parts):
                break
            part = course.parts[course.next]
            course.next += 1
            if run.states[part] == _WAITING:
                course.awake += 1
                self._consequences.turns.arrive(run, part, now_us)
        course.busy = False
        if not course.open:
            self._finish(run, index, course, now_us)

    def _weigh(self, run: LiveRun, index: int, course: _Course, part: int, now_us: int) -> None:
        """Counts how an item has ended, and stops the others where that decides their task."""
        course.bytes += self._bytes_of(run, part)
        if course.bytes > PAYLOAD_BYTES_MAX:
            message = (
                f"the outputs of its items have more than {PAYLOAD_BYTES_MAX} bytes together; "
                "let items give back less, such as a reference to where their output lies"
            )
            self._stop(run, index, course, Failure(OUTPUT_TOO_LARGE, message), now_us)
        elif run.states[part] == TaskState.FAILED:
            course.failed += 1
            self._bound_failures(run, index, course, part, now_us)

    def _bound_failures(
        self, run: LiveRun, index: int, course: _Course, last: int, now_us: int
    ) -> None:
        """Stops the others when more have failed than may; `last` is the last one that did."""
        most = course.declared.failures_max
        if 0 <= most < course.failed:
            message = f"item {run.graph.keys[last]} failed; at most {most} may"
            self._stop(run, index, course, Failure(ITEMS_FAILED, message), now_us)

    def _stop(
        self, run: LiveRun, index: int, course: _Course, failure: Failure, now_us: int
    ) -> None:
        """Ends the items that no agent has, and tells the agents of the others."""
        course.stopping = True
        facts, consequences = run.facts[index], self._consequences
        facts.keep(stopping=[failure.code, failure.message])
        write_task(run, consequences.under(), index, facts)
        for part in course.parts:
            state = run.states[part]
            if state == TaskState.LEASED:
                consequences.attempts.stop_attempt(run, part, failure.message)
            elif state not in TASK_ENDED:
                course.open -= 1
                consequences.cancel(run, part, now_us)
            run.forget_output(part)

    def _finish(self, run: LiveRun, index: int, course: _Course, now_us: int) -> None:
        """All items have ended, and the task with them."""
        del self._courses[run.run_id, index]
        facts = run.facts[index]
        failed = [part for part in course.parts if run.states[part] == TaskState.FAILED]
        named = ", ".join(run.graph.keys[part] for part in failed[:_NAMED_MAX])
        said = f"{len(failed)} of {len(course.parts)} items failed: {named}" if failed else ""
        if len(failed) > _NAMED_MAX:
            said += f" and {len(failed) - _NAMED_MAX} more"
        detail: dict[str, Any] = facts.detail or {}
        if course.stopping:
            code, message = detail["stopping"]
            facts.detail = {name: value for name, value in detail.items() if name != "stopping"}
            if code == ITEMS_FAILED:
                message = f"{said}; at most {course.declared.failures_max} may"
            self._consequences.fail(run, index, facts, Failure(code, message, True), now_us)
            return
        outputs = [run.outputs.get(part) for part in course.parts]
        for part in course.parts:
            run.forget_output(part)
        collected = b",".join(_NULL if one is None else one.data for one in outputs)
        output = Payload(b"[" + collected + b"]")
        self._consequences.succeed(run, index, facts, output, now_us, message=said)

    def _bytes_of(self, run: LiveRun, part: int) -> int:
        """What the output of an item adds to the list, the comma included."""
        output = run.outputs.get(part)
        return 1 + len(_NULL if output is None else output.data)


def _items(run: LiveRun, index: int) -> list[Any] | Failure:
    """The list, or why there is none."""
    declared = run.tasks[index].for_each
    assert declared is not None
    try:
        items = data_flow.items(declared.items, run_data.names_of(run, index))
    except EvaluationFailed as error:
        message = f"for_each.items: {data_flow.shown(declared.items)}: {error}"
        return Failure(EXPANSION_FAILED, message[:MESSAGE_CHARACTERS_MAX], True)
    more = len(items) - len(run.parts_of(index))
    if len(items) > declared.items_max:
        message = f"the list has {len(items)} items, at most {declared.items_max} are allowed"
        return Failure(ITEMS_TOO_MANY, message, True)
    if more > 0 and len(run.states) + more > RUN_TASKS_MAX:
        message = f"the run would have {len(run.states) + more} tasks, at most {RUN_TASKS_MAX}"
        return Failure(ITEMS_TOO_MANY, message, True)
    size = len(orjson.dumps(items))
    if size > PAYLOAD_BYTES_MAX:
        message = f"the list has {size} bytes, at most {PAYLOAD_BYTES_MAX} are allowed"
        return Failure(ITEMS_TOO_LARGE, message, True)
    return items


def is_collecting(task: records.Task) -> bool:
    """Whether a stored task of this kind still wants the outputs of the items that have ended."""
    if task.state in TASK_ENDED or task.detail is None:
        return False
    return "stopping" not in orjson.loads(task.detail)


def output_failure(run: LiveRun, index: int, output: Payload | None) -> Failure | None:
    """Why an output cannot be taken where it is to be, or None: in the list of an item's task."""
    if index < run.planned or output is None or output.is_json:
        return None
    if output.content_type == REFERENCE_TYPE:
        # It is JSON too, and stands in the list as it is.
        return None
    extension, _ = run.extension_of(index)
    if extension.kind != ITEMS:
        return None
    message = f"the output of an item must be JSON, not {output.content_type}"
    return Failure(OUTPUT_NOT_JSON, message, True)
