"""Whether nothing that was acknowledged is lost, and nothing was done twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain

from tests.chaos.history import (
    DONE,
    Asked,
    Cancelled,
    Observations,
    Read,
    Record,
    Settled,
    Started,
    StoredEvent,
    Watched,
)

#: What follows when a result counts.
RESULTS = {
    "success": {"task.succeeded"},
    "failure": {"task.failed", "task.retrying", "task.cancelled"},
    "stopped": {"task.lease_returned", "task.cancelled"},
    "return": {"task.lease_returned", "task.cancelled"},
}
_RESULTS = {"task.succeeded", "task.retrying", "task.failed"}
#: Verdicts by which a result counts, now or before.
COUNTED = {"APPLIED", "ALREADY_APPLIED"}
#: What an act leaves in the run that it is asked of. Acts that may change nothing are not here.
_LEAVES = {
    "run.reopen": {"run.reopened"},
    "run.signal": {"run.signalled"},
    "task.skip": {"task.skipped"},
    "task.settle": {"task.succeeded", "task.failed", "task.cancelled"},
    "run.pause": {"run.paused"},
    "run.resume": {"run.resumed"},
    "run.close": {"run.closed"},
    "task.decide": {"task.decided"},
}
#: Acts that twice are the same as once: what is acknowledged may have been so before.
_IDEMPOTENT = {"run.pause", "run.resume", "run.close", "task.decide"}
_ENDED_BY_CANCEL = {"CANCELLING", "CANCELLED"}


def acknowledged_is_kept(observations: Observations, record: Record) -> Iterator[str]:
    """Runs, cancellations and results that were acknowledged, and events that were shown."""
    for seen in observations:
        match seen:
            case Started(outcome="OK", run_id=run_id):
                stored = record.runs.get(run_id)
                if stored is None:
                    yield f"run {run_id} of {seen.tenant} was acknowledged and is not there"
                elif (stored.tenant, stored.workflow) != (seen.tenant, seen.workflow):
                    yield f"run {run_id} is another one than was acknowledged"
            case Cancelled(outcome="OK"):
                yield from _is_cancelled(seen, record)
            case Read(outcome="NOT_FOUND", run_id=run_id):
                yield f"run {run_id} was acknowledged to {seen.actor}, which could not read it"
            case Settled(verdict=verdict) if verdict in COUNTED:
                if not _followed(record, seen):
                    yield f"the {seen.end} of {seen.lease} was {verdict}, and nothing followed"
            case Watched():
                yield from _shown_stands(record, seen)
            case _:
                pass


def _is_cancelled(seen: Cancelled, record: Record) -> Iterator[str]:
    """It is, or it was opened again since, or closed."""
    stored = record.runs.get(seen.run_id)
    state = "nowhere" if stored is None else stored.state
    kinds = {event.kind for event in record.events.get(seen.run_id, ())}
    again = kinds & {"run.reopened", "run.closed"} and kinds & {"run.cancelling", "run.cancelled"}
    if state not in _ENDED_BY_CANCEL and not again:
        yield f"the cancellation of run {seen.run_id} was acknowledged; it is {state}"


def _followed(record: Record, seen: Settled) -> bool:
    run_id, task, term = seen.lease
    wanted = RESULTS[seen.end]
    events = record.events.get(run_id, ())
    return any(
        event.task == task and event.term == term and event.kind in wanted for event in events
    )


def _shown_stands(record: Record, seen: Watched) -> Iterator[str]:
    stored = {event.sequence: event[1:4] for event in record.events.get(seen.run_id, ())}
    for number, (sequence, kind, task, term) in enumerate(seen.events, start=1):
        if sequence != number:
            yield f"{seen.actor} saw event {sequence} of run {seen.run_id} in place of {number}"
            return
        if stored.get(sequence) != (kind, task, term):
            yield f"{seen.actor} saw {kind} as event {sequence} of {seen.run_id}, which is gone"
            return


def a_request_is_one_run(observations: Observations, record: Record) -> Iterator[str]:
    """A request id that was repeated gets the same run, and there is no second one."""
    answers: dict[tuple[str, str], set[str]] = defaultdict(set)
    for seen in observations:
        if isinstance(seen, Started) and seen.outcome == DONE:
            answers[seen.tenant, seen.request_id].add(seen.run_id)
    for run_id, stored in record.runs.items():
        # A run within a run has its labels, too.
        if stored.request_id and not stored.parent:
            answers[stored.tenant, stored.request_id].add(run_id)
    for (tenant, request_id), runs in answers.items():
        if len(runs) > 1:
            yield f"request {request_id} of {tenant} is {len(runs)} runs: {sorted(runs)}"


def one_result_per_term(observations: Observations, record: Record) -> Iterator[str]:
    """At most one result is applied under each lease, as it was said and as it was written."""
    said = Counter(
        seen.lease
        for seen in observations
        if isinstance(seen, Settled) and seen.verdict == "APPLIED"
    )
    for lease, times in said.items():
        if times > 1:
            yield f"{times} results of {lease} were said to be applied"
    for run_id, events in record.events.items():
        written: Counter[tuple[str, int]] = Counter()
        live = set()
        for event in events:
            name = (event.task, event.term)
            if event.kind == "task.leased":
                live.add(name)
            elif event.kind in _RESULTS and name in live and _is_result(record, run_id, event):
                written[name] += 1
        for (task, term), times in written.items():
            if times > 1:
                yield f"{times} results of {(run_id, task, term)} were written"


def _is_result(record: Record, run_id: str, event: StoredEvent) -> bool:
    """Whether an attempt ended so, and not a task between two of them."""
    by_hand = record.act_of(run_id, event) == "task.settle"
    return not by_hand and event.code not in ("TOTAL_TIMED_OUT", "RETRY_TIMED_OUT")


def _changes(record: Record) -> Iterator[list[tuple[str, str, str]]]:
    """What each act may have been asked to do, by its verb, run and task.

    Of what it left the first is what was asked, and the rest followed from it. But when a list
    ends, what is left of its items is cancelled before, and what is settled as failed while its
    list gives up is cancelled itself: which of them was asked for is not to be seen then.
    """
    for log in record.logs.values():
        for entry in log:
            left = [item for item in entry.items if item.kind in _LEAVES.get(entry.kind, ())]
            named = [(entry.kind, item.run_id, item.task) for item in left]
            unsure = any(item.kind == "task.cancelled" for item in left)
            yield named if unsure else named[:1]


#: What pauses a run or lets it go on.
_TURNS = {"run.paused", "run.resumed", "run.reopened"}


def _stays_paused(events: Sequence[StoredEvent]) -> bool:
    turns = [event.kind for event in events if event.kind in _TURNS]
    return turns[-1:] == ["run.paused"]


def what_was_asked_is_done_once(observations: Observations, record: Record) -> Iterator[str]:
    """Each change that was acknowledged was made, and none more often than it was asked for."""
    asked: Counter[tuple[str, str, str]] = Counter()
    acknowledged: Counter[tuple[str, str, str]] = Counter()
    for seen in observations:
        if isinstance(seen, Asked) and seen.verb in _LEAVES:
            asked[seen.verb, seen.run_id, seen.task] += 1
            acknowledged[seen.verb, seen.run_id, seen.task] += seen.outcome == DONE
    changes = list(_changes(record))
    sure = Counter(names[0] for names in changes if len(names) == 1)
    possible = Counter(chain.from_iterable(map(set, changes)))
    for (verb, run_id, task), times in asked.items():
        done, at_most = sure[verb, run_id, task], possible[verb, run_id, task]
        events = record.events.get(run_id, ())
        left = any(
            (event.kind in _LEAVES[verb] and event.task == task)
            # What is opened again may be paused at once.
            or (verb == "run.pause" and event.kind == "run.reopened")
            for event in events
        )
        # Who resumes what is not paused is told that it goes on.
        left = left or (verb == "run.resume" and not _stays_paused(events))
        said = acknowledged[verb, run_id, task]
        if done > times:
            yield f"{verb} of {run_id} {task} was asked for {times}×, and done {done}×"
        if said > at_most and not (verb in _IDEMPOTENT and left):
            yield f"{verb} of {run_id} {task} was acknowledged {said}×, and done {at_most}×"
