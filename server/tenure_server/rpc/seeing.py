"""What of a filter, a count, a comparison and an explanation of runs crosses the wire."""

from __future__ import annotations

from typing import cast

from google.protobuf.timestamp_pb2 import Timestamp

from tenure.v1 import runs_pb2
from tenure_server.core import errors
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import RunState
from tenure_server.core.seeing.filters import WORDS_ASKED_MAX, RunFilter, Span, StateCount
from tenure_server.core.seeing.hindrances import Hindrance
from tenure_server.core.seeing.side_by_side import Comparison, SeenTask, Side, TaskPair
from tenure_server.engine.bulk import Progress, Verb, Wish
from tenure_server.engine.explaining import ExplainedRun
from tenure_server.rpc import convert, status

#: How many runs a second are changed where nothing is said of it.
RATE_DEFAULT = 50


def run_filter(message: runs_pb2.RunFilter, path: str = "filter") -> RunFilter:
    """A filter of a request. Raises FieldsInvalid."""
    wanted = RunFilter(
        workflow=message.workflow,
        states=frozenset(RunState(state) for state in message.states),
        labels=dict(message.labels),
        label_keys=frozenset(message.label_keys),
        created=_span(message.created, f"{path}.created"),
        ended=_span(message.ended, f"{path}.ended"),
        text=message.text.strip(),
        parent_run_id=message.parent_run_id,
    )
    for name, text in (("workflow", message.workflow), ("text", message.text)):
        if "\0" in text:
            # PostgreSQL cannot even be asked for it.
            raise errors.FieldsInvalid([(f"{path}.{name}", "must not hold the zero character")])
    if message.text:
        words = len(wanted.words())
        if not words:
            raise errors.FieldsInvalid([(f"{path}.text", "must have a letter or a digit")])
        if words > WORDS_ASKED_MAX:
            reason = f"has {words} words, at most {WORDS_ASKED_MAX} are allowed"
            raise errors.FieldsInvalid([(f"{path}.text", reason)])
    return wanted


def list_filter(message: runs_pb2.ListRunsRequest) -> RunFilter | None:
    """What a list is of: its own fields and the filter together. None: nothing can be both."""
    both = runs_pb2.RunFilter()
    both.CopyFrom(message.filter)
    if message.workflow:
        if both.workflow not in ("", message.workflow):
            return None
        both.workflow = message.workflow
    if message.states:
        states = set(message.states) & set(both.states or message.states)
        if not states:
            return None
        del both.states[:]
        both.states.extend(states)
    return run_filter(both)


def wish(message: runs_pb2.ChangeRunsRequest, request: records.Request | None) -> Wish:
    """What is to be done to which runs. Raises FieldsInvalid."""
    if message.filter == runs_pb2.RunFilter():
        # Whoever forgets a filter does not mean all runs there are.
        raise errors.FieldsInvalid([("filter", "must say which runs are meant")])
    verb = Verb(message.verb)
    if verb is Verb.CLOSE and not message.reason:
        raise errors.FieldsInvalid([("reason", "is required to close runs")])
    if verb is not Verb.MOVE and (message.workflow_version or message.resume):
        name = "workflow_version" if message.workflow_version else "resume"
        raise errors.FieldsInvalid([(name, "is only for moving runs")])
    return Wish(
        wanted=run_filter(message.filter),
        verb=verb,
        reason=message.reason,
        rate=message.rate or RATE_DEFAULT,
        dry_run=message.dry_run,
        version=message.workflow_version,
        resume=message.resume,
        request=request,
    )


def progress_message(progress: Progress) -> runs_pb2.ChangeRunsResponse:
    """How far it is."""
    return runs_pb2.ChangeRunsResponse(
        total=progress.total,
        more=progress.more,
        matched=progress.matched,
        done=progress.done,
        refused=progress.refused,
        run_ids=progress.run_ids,
        refusals=[
            runs_pb2.RunRefusal(
                run_id=run_id, reason=status.reason_name(refusal), message=refusal.message
            )
            for run_id, refusal in progress.refusals
        ],
    )


def count_message(counts: list[StateCount]) -> runs_pb2.CountRunsResponse:
    """Runs by state."""
    return runs_pb2.CountRunsResponse(
        counts=[
            runs_pb2.RunStateCount(
                state=convert.run_state(one.state), count=one.count, more=one.more
            )
            for one in counts
        ],
        total=sum(one.count for one in counts),
        more=any(one.more for one in counts),
    )


def comparison_message(
    found: Comparison, left: Side, right: Side, *, differing_only: bool
) -> runs_pb2.CompareRunsResponse:
    """Two runs side by side, but for the runs themselves."""
    differing = found.differing
    kinds = cast("list[runs_pb2.RunDifference.ValueType]", [int(it) for it in found.differences])
    return runs_pb2.CompareRunsResponse(
        left_input_digest=left.input_digest,
        right_input_digest=right.input_digest,
        differences=kinds,
        tasks=[_pair_message(pair) for pair in (differing if differing_only else found.tasks)],
        differing_tasks=len(differing),
        first_differing_task=found.first,
    )


def explanation_message(found: ExplainedRun) -> runs_pb2.ExplainRunResponse:
    """Tasks, and what stands in the way of each."""
    run = found.run
    return runs_pb2.ExplainRunResponse(
        tasks=[
            runs_pb2.TaskExplanation(
                task_key=run.graph.keys[task.index],
                kind=run.tasks[task.index].kind,
                state=cast("runs_pb2.TaskState.ValueType", int(task.state)),
                hindrances=[_hindrance_message(one) for one in task.hindrances],
            )
            for task in found.tasks
        ],
        idle_tasks=found.idle,
    )


def _hindrance_message(one: Hindrance) -> runs_pb2.Hindrance:
    message = runs_pb2.Hindrance(
        kind=cast("runs_pb2.HindranceKind.ValueType", int(one.kind)),
        sentence=one.sentence,
        task_keys=one.task_keys,
        name=one.name,
        key=one.key,
        child_run_id=one.child_run_id,
    )
    if one.due_us is not None:
        message.due_time.CopyFrom(convert.timestamp(one.due_us))
    if one.count >= 0:
        message.count = one.count
    if one.limit >= 0:
        message.limit = one.limit
    return message


def _pair_message(pair: TaskPair) -> runs_pb2.TaskComparison:
    kinds = cast("list[runs_pb2.TaskDifference.ValueType]", [int(it) for it in pair.differences])
    return runs_pb2.TaskComparison(
        key=pair.key,
        left=_side_message(pair.left),
        right=_side_message(pair.right),
        differences=kinds,
    )


def _side_message(task: SeenTask | None) -> runs_pb2.TaskSide | None:
    if task is None:
        return None
    message = runs_pb2.TaskSide(
        kind=task.node.kind,
        state=cast("runs_pb2.TaskState.ValueType", int(task.state)),
        attempt=task.attempt,
        failure_code=task.failure_code,
    )
    if task.duration_us is not None:
        message.duration.CopyFrom(convert.duration(task.duration_us))
    if task.result:
        message.result_digest = f"sha256:{task.result.hex()}"
    if task.end_us is not None:
        message.end_time.CopyFrom(convert.timestamp(task.end_us))
    return message


def _span(message: runs_pb2.TimeRange, path: str) -> Span:
    ever = Span()
    from_us = _time(message, "from_time", path, ever.from_us)
    until_us = _time(message, "until_time", path, ever.until_us)
    if from_us >= until_us:
        raise errors.FieldsInvalid([(f"{path}.until_time", "must be later than from_time")])
    return Span(from_us, until_us)


def _time(message: runs_pb2.TimeRange, name: str, path: str, otherwise: int) -> int:
    if not message.HasField(name):  # type: ignore[arg-type]
        return otherwise
    moment: Timestamp = getattr(message, name)
    return convert.timestamp_us(moment, f"{path}.{name}")
