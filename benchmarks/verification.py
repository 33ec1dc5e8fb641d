"""What makes a figure worth printing: each task succeeded once, in order, and nothing was lost.

The record of a run is read back through the wire and judged here from its definition alone; what
the coordinator believes of its own counts is compared, not trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tenure.v1 import runs_pb2, workflows_pb2

Upstream = Mapping[str, Sequence[str]]

#: What may stand in the record of a run whose coordinator was killed.
_INTERRUPTIONS = (
    runs_pb2.RUN_EVENT_KIND_TASK_LEASE_LOST,
    runs_pb2.RUN_EVENT_KIND_TASK_LEASE_RETURNED,
)


class WrongHistoryError(Exception):
    """A run did not go as it must; the figure measured with it is worthless."""


def upstream_of(definition: workflows_pb2.WorkflowDefinition) -> Upstream:
    """Every task's key with the keys of what it depends on."""
    return {task.key: tuple(task.depends_on) for task in definition.tasks}


def items_of(key: str, items: int) -> Upstream:
    """The keys of the tasks for the items of a list, as `upstream_of` gives those of others."""
    return {f"{key}[{place}]": () for place in range(items)}


def without_list(
    run: runs_pb2.Run, key: str, items: int, events: Sequence[runs_pb2.RunEvent]
) -> list[runs_pb2.RunEvent]:
    """The events of a run without those of the list itself, which must be as they should be.

    It is begun before any of its items, and succeeds behind the last one. Raises WrongHistoryError.
    """
    own = [place for place, event in enumerate(events) if event.task_key == key]
    kinds = [_name(events[place]) for place in own]
    if kinds != ["TASK_ACTIVATED", "TASK_SUCCEEDED"]:
        raise _wrong(run, f"has {kinds} of its list {key}")
    first, last = own
    between = sum(
        event.kind == runs_pb2.RUN_EVENT_KIND_TASK_SUCCEEDED for event in events[first:last]
    )
    if between != items:
        raise _wrong(run, f"has {between} successes of items while {key} is under way, not {items}")
    return [event for event in events if event.task_key != key]


def check_run(
    upstream: Upstream,
    run: runs_pb2.Run,
    unfinished: Sequence[runs_pb2.Task],
    events: Sequence[runs_pb2.RunEvent],
    *,
    interrupted: bool = False,
    lists: Mapping[str, int] | None = None,
) -> None:
    """Raises WrongHistoryError unless every task of the run succeeded exactly once and in order.

    `lists` says of tasks that are lists how many items each has.

    `unfinished` are the tasks that the coordinator lists in any other state than SUCCEEDED. With
    `interrupted`, leases may have been lost or returned on the way.
    """
    lists = lists or {}
    total = len(upstream) + sum(lists.values())
    if run.state != runs_pb2.RUN_STATE_SUCCEEDED:
        raise _wrong(run, f"is {runs_pb2.RunState.Name(run.state)}: {run.reason}")
    if (run.tasks.total, run.tasks.succeeded) != (total, total):
        raise _wrong(run, f"counts {run.tasks.succeeded} of {run.tasks.total}, not {total}")
    if unfinished:
        raise _wrong(run, f"lists {unfinished[0].key} as not succeeded after its end")
    _check_frame(run, events)
    expected, left = dict(upstream), list(events)
    for key, items in lists.items():
        left = without_list(run, key, items, left)
        del expected[key]
        expected |= items_of(key, items)
    _check_tasks(run, expected, left[1:-1], interrupted=interrupted)


def order_violations(upstream: Upstream, events: Sequence[runs_pb2.RunEvent]) -> int:
    """How many leases were granted before something that their task depends on had succeeded."""
    succeeded: set[str] = set()
    violations = 0
    for event in events:
        if event.kind == runs_pb2.RUN_EVENT_KIND_TASK_SUCCEEDED:
            succeeded.add(event.task_key)
        elif event.kind == runs_pb2.RUN_EVENT_KIND_TASK_LEASED:
            violations += any(key not in succeeded for key in upstream[event.task_key])
    return violations


def _check_frame(run: runs_pb2.Run, events: Sequence[runs_pb2.RunEvent]) -> None:
    """The events count without a gap, begin with the run's start and end with its success."""
    for place, event in enumerate(events, 1):
        if event.sequence != place:
            raise _wrong(run, f"has event {event.sequence} in place {place}")
    if len(events) < 2:
        raise _wrong(run, f"has {len(events)} events")
    if events[0].kind != runs_pb2.RUN_EVENT_KIND_RUN_STARTED:
        raise _wrong(run, f"begins with {_name(events[0])}")
    if events[-1].kind != runs_pb2.RUN_EVENT_KIND_RUN_SUCCEEDED:
        raise _wrong(run, f"ends with {_name(events[-1])}")


def _check_tasks(
    run: runs_pb2.Run,
    upstream: Upstream,
    events: Sequence[runs_pb2.RunEvent],
    *,
    interrupted: bool,
) -> None:
    """Each task is leased when it may be, and succeeds once, under its last lease."""
    leased: dict[str, int] = {}
    succeeded: set[str] = set()
    for event in events:
        key = event.task_key
        if key not in upstream:
            raise _wrong(run, f"has {_name(event)} of {key!r}, which is none of its tasks")
        if key in succeeded:
            raise _wrong(run, f"has {_name(event)} of {key} after its success")
        if event.kind == runs_pb2.RUN_EVENT_KIND_TASK_LEASED:
            early = [before for before in upstream[key] if before not in succeeded]
            if early:
                raise _wrong(run, f"leased {key} before {early[0]} had succeeded")
            if key in leased and (not interrupted or event.term <= leased[key]):
                raise _wrong(run, f"leased {key} twice")
            leased[key] = event.term
        elif event.kind == runs_pb2.RUN_EVENT_KIND_TASK_SUCCEEDED:
            if leased.get(key) != event.term:
                raise _wrong(run, f"took the success of {key} under a lease that did not hold")
            succeeded.add(key)
        elif not (interrupted and event.kind in _INTERRUPTIONS):
            raise _wrong(run, f"has {_name(event)} of {key}")
    if missing := upstream.keys() - succeeded:
        raise _wrong(run, f"has no success of {len(missing)} tasks, such as {min(missing)}")


def _name(event: runs_pb2.RunEvent) -> str:
    return runs_pb2.RunEventKind.Name(event.kind).removeprefix("RUN_EVENT_KIND_")


def _wrong(run: runs_pb2.Run, what: str) -> WrongHistoryError:
    return WrongHistoryError(f"run {run.run_id} {what}")
