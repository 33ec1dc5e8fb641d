"""What follows after a run has failed: what undoes its tasks, then `on_failure`, then the end.

The run is COMPENSATING meanwhile. What undoes the tasks that had succeeded, and `on_failure`, are
tasks beside the graph (see `extensions`), all laid down at once in the order in which they are
executed: the last success first. One begins when the one before has ended, however that was; what
is under way therefore follows from the states of these tasks alone, and survives a restart.

The order of successes lies in the rows of tasks that can be undone, in `TaskFacts.detail` under
``succeeded``: the number of the event.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from tenure_server.core.definitions.payloads import Payload
from tenure_server.core.ledger.lifecycle import TASK_ENDED, EventKind, RunState, TaskState
from tenure_server.core.runs import history, run_data
from tenure_server.core.runs.extensions import ON_FAILURE, UNDO, Extension
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.rows import write_task
from tenure_server.core.runs.tasks import TaskFacts

if TYPE_CHECKING:
    from tenure_server.core.progress.consequences import Consequences

#: How many of those that could not be undone the run's reason names.
_NAMED_MAX = 5


def note_success(run: LiveRun, index: int, facts: TaskFacts) -> None:
    """Remembers a task that may have to be undone, before the event of its success."""
    task = run.tasks[index]
    # Of a list the items are undone, each by itself.
    if task.compensation is not None and task.for_each is None:
        facts.keep(succeeded=run.sequence + 1)
        run.successes[index] = run.sequence + 1


def begin(consequences: Consequences, run: LiveRun, now_us: int) -> bool:
    """A run whose tasks have all ended would fail. True: not yet, something is to be done first."""
    kinds = {extension.kind for extension in run.extensions}
    plan: list[Extension] = []
    if UNDO not in kinds:
        successes = run.successes
        last_first = sorted(successes, key=successes.__getitem__, reverse=True)
        plan += [Extension(UNDO, index) for index in last_first]
    undone = len(plan)
    if run.definition.on_failure is not None and ON_FAILURE not in kinds:
        plan.append(Extension(ON_FAILURE, -1))
    if not plan:
        return False
    if run.state is RunState.PAUSED:
        # Whoever paused it wants nothing to begin; when it is resumed, this comes again.
        return True
    journal = consequences.under()
    run.state = RunState.COMPENSATING
    run.extend(*plan)
    consequences.open_tasks += len(plan)
    journal.run_changed(run.run_id, run)
    message = f"{undone} to undo; {run.reason}" if undone else run.reason
    history.note_run(run, journal, EventKind.RUN_COMPENSATING, now_us, message)
    go_on(consequences, run, now_us)
    return True


def go_on(consequences: Consequences, run: LiveRun, now_us: int) -> None:
    """Begins the next of these tasks, when the one before has ended."""
    if run.open_tasks != run.tallies[TaskState.WAITING]:
        return
    for index in run.aftermath:
        if run.states[index] == TaskState.WAITING:
            facts = run.facts[index] = TaskFacts()
            tell_failures(run, index)
            consequences.ready(run, index)
            write_task(run, consequences.under(), index, facts)
            return


def is_under_way(run: LiveRun) -> bool:
    """Whether something of this is still to be done."""
    return any(run.states[index] not in TASK_ENDED for index in run.aftermath)


def restore(run: LiveRun) -> None:
    """Gives `on_failure` its input again, after the run was read back."""
    for index in run.aftermath:
        if run.states[index] not in TASK_ENDED and run.states[index] != TaskState.WAITING:
            tell_failures(run, index)


def tell_failures(run: LiveRun, index: int) -> None:
    """Adds to the input of `on_failure` what has failed. It is the last to begin."""
    extension, _ = run.extension_of(index)
    if extension.kind != ON_FAILURE:
        return
    own = run.definition.on_failure
    assert own is not None
    value: dict[str, Any] = {} if own.input is None else orjson.loads(own.input.data)
    value["failed"] = run_data.failures_of(run)
    payload = Payload(orjson.dumps(value))
    run.replace_task(index, replace(run.tasks[index], input=payload))


def shortfall(run: LiveRun) -> str:
    """What could not be undone, for the reason of the run's end. Empty: nothing."""
    left, undone = [], 0
    for index in run.aftermath:
        if run.extension_of(index)[0].kind == UNDO:
            undone += 1
            if run.states[index] != TaskState.SUCCEEDED:
                left.append(run.graph.keys[index])
    if not left:
        return ""
    more = f" and {len(left) - _NAMED_MAX} more" if len(left) > _NAMED_MAX else ""
    return f"; {len(left)} of {undone} compensations failed: {', '.join(left[:_NAMED_MAX])}{more}"
