"""Whether everything ended once the faults had stopped, or waits for what can be named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.chaos.history import Explained, Hindrance, Observations, Record, StoredRun
from tests.chaos.rules.course import RUN_ENDS, UNDO

#: What somebody outside is waited for, or a time that comes by itself.
NAMED = {
    "SIGNAL",
    "EVENT",
    "APPROVAL",
    "TIMER",
    "RUN_PAUSED",
    "WORKFLOW_PAUSED",
    "TENANT_PAUSED",
}


def every_run_ends_or_waits(observations: Observations, record: Record) -> Iterator[str]:
    """A run that is open at the end waits for something that is named, or for one that does."""
    explained = {seen.run_id: seen for seen in observations if isinstance(seen, Explained)}
    open_ = {run_id for run_id, one in record.runs.items() if one.state not in RUN_ENDS.values()}
    waiting = those_that_wait(explained, record.runs)
    for run_id, stored in record.runs.items():
        events = record.events.get(run_id, ())
        last = [event.kind for event in events if event.kind in RUN_ENDS or not event.task][-1:]
        if run_id not in open_:
            if RUN_ENDS.get(last[0] if last else "") != stored.state:
                yield f"run {run_id} of {stored.tenant} is {stored.state} after {last}"
        elif run_id not in waiting:
            why = explained[run_id].tasks if run_id in explained else "nobody can say why"
            yield f"run {run_id} of {stored.workflow} is {stored.state}: {why}"


def those_that_wait(explained: Mapping[str, Explained], runs: Mapping[str, StoredRun]) -> set[str]:
    """The open runs that wait for something that is named, in the end."""
    # What has failed while it is paused has no open task, and is undone when it goes on.
    waiting = {
        run_id for run_id, one in explained.items() if one.tasks or runs[run_id].state == "PAUSED"
    }
    while True:
        # Whatever waits for a run that does not wait itself does not wait rightly.
        wrong = {run_id for run_id in waiting if not _rests_on(explained[run_id], waiting, runs)}
        if not wrong:
            return waiting
        waiting -= wrong


def _rests_on(one: Explained, waiting: set[str], runs: Mapping[str, StoredRun]) -> bool:
    """Whether what the tasks of a run wait for goes back to something that is named."""
    rest = dict(one.tasks)
    settled: set[str] = set()
    while True:
        found = {
            key
            for key, why in rest.items()
            if any(_holds(each, settled, waiting, one, runs) for each in why)
        }
        if not found:
            return not rest
        settled |= found
        rest = {key: why for key, why in rest.items() if key not in found}


def _holds(
    why: Hindrance,
    settled: set[str],
    waiting: set[str],
    one: Explained,
    runs: Mapping[str, StoredRun],
) -> bool:
    match why.kind:
        case "TASKS":
            return bool(settled.intersection(why.tasks))
        case "ITEMS" if why.tasks:
            # An item whose turn has not come: others of its list are at work.
            return bool(settled.intersection(why.tasks)) or any(
                key.startswith(f"{why.tasks[0]}[") for key in settled
            )
        case "ITEMS":
            return any(key.endswith("]") for key in settled)
        case "AFTERMATH":
            return any(key.endswith(UNDO) for key in settled)
        case "CHILD_RUN":
            return why.child in waiting
        case "RUN_LIMIT":
            mine = runs[one.run_id]
            return any(
                run_id in waiting and (other.tenant, other.workflow) == (mine.tenant, mine.workflow)
                for run_id, other in runs.items()
                if run_id != one.run_id
            )
        case kind:
            return kind in NAMED
