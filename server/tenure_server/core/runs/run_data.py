"""The data of a run as expressions see them, and what they and its schemas say of them.

what expressions see        names_of
what a handler is given     handler_input      at each lease
what it gave back           output_problem     at its result
what a run came to          conclude           at the run's end
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from tenure_server.core.definitions import schemas
from tenure_server.core.definitions.definition import WorkflowDefinition
from tenure_server.core.definitions.payloads import PAYLOAD_BYTES_MAX, Payload
from tenure_server.core.expressions.evaluation import Budget
from tenure_server.core.ledger.lifecycle import Failure, TaskState
from tenure_server.core.runs import data_flow, extensions
from tenure_server.core.runs.data_flow import BINDING_FAILED, FieldFailed
from tenure_server.core.runs.live import LiveRun
from tenure_server.core.runs.tasks import TaskFacts

INPUT_INVALID = "INPUT_INVALID"
#: Of a failure's message, as in the contract.
MESSAGE_CHARACTERS_MAX = 4000
#: How many failed tasks `on_failure` is told of.
FAILED_NAMED_MAX = 100
_WRITE_BYTE_NS, _CHECK_BYTE_NS = 10, 50
#: What there is instead of no payload.
_NULL = Payload(b"null")


def names_of(run: LiveRun, index: int | None = None, attempt: int = 0) -> dict[str, Any]:
    """What expressions may look at of a run; of one of its tasks, when `index` is given.

    Nothing is parsed before it is looked at.
    """
    names: dict[str, Any] = {"run": _OfRun(run), "tasks": _OfTasks(run)}
    if index is None:
        return names
    names["attempt"] = attempt
    if index >= run.planned:
        extension, place = run.extension_of(index)
        if extension.kind == extensions.UNDO:
            names["output"] = data_flow.given(run.outputs.get(extension.of))
            if extension.of >= run.planned:
                item, place = run.extension_of(extension.of)
                names["index"] = place
                names["item"] = run.lists[item.of][place]
        elif extension.kind == extensions.ON_FAILURE:
            names["failed"] = failures_of(run)
        elif extension.kind == extensions.ITEMS:
            detail = run.facts[extension.of].detail or {}
            names["index"] = place
            names["item"] = detail["items"][place]
    return names


class _OfRun:
    def __init__(self, run: LiveRun) -> None:
        self._run = run

    def __getitem__(self, name: str) -> Any:
        if name == "input":
            return data_flow.given(self._run.input)
        known = {"id": self._run.run_id, "labels": self._run.labels, "reason": self._run.reason}
        return known[name]


class _OfTasks:
    def __init__(self, run: LiveRun) -> None:
        self._run = run

    def __getitem__(self, key: str) -> _OfTask:
        return _OfTask(self._run, self._run.graph.index[key])


class _OfTask:
    def __init__(self, run: LiveRun, index: int) -> None:
        self._run = run
        self._index = index

    def __getitem__(self, name: str) -> Any:
        if name == "state":
            return TaskState(self._run.states[self._index]).name
        return {"output": data_flow.given(self._run.outputs.get(self._index))}[name]


def failures_of(run: LiveRun) -> list[dict[str, str]]:
    """The tasks that failed, with code and message: the first hundred in the order of tasks."""
    told = []
    for index in sorted(run.failures)[:FAILED_NAMED_MAX]:
        failure = run.failures[index]
        words = {"code": failure.code, "message": failure.message}
        told.append({"task": run.graph.keys[index], **words})
    return told


def has_own_data(run: LiveRun, index: int) -> bool:
    """Whether more is to be done for a handler's input than handing over what is declared."""
    return bool(run.tasks[index].bindings or run.definition.schemas)


def handler_input(
    run: LiveRun, index: int, facts: TaskFacts, budget: Budget | None = None
) -> Payload | Failure | None:
    """What a handler is given as its task's own; a failure when there cannot be such a thing."""
    budget = budget or Budget()
    task = run.tasks[index]
    own = task.input
    if task.bindings:
        try:
            own = data_flow.fields(task.bindings, names_of(run, index, facts.attempt), own, budget)
            budget.note(len(own.data) * _WRITE_BYTE_NS)
        except FieldFailed as error:
            return Failure(BINDING_FAILED, str(error)[:MESSAGE_CHARACTERS_MAX], True)
    kind = run.definition.schemas.get(task.kind)
    if kind is None or kind.input is None:
        return own
    budget.note(len((own or _NULL).data) * _CHECK_BYTE_NS)
    found = schemas.compiled(kind.input.data).violation(own or _NULL)
    if found is None:
        return own
    return Failure(INPUT_INVALID, f"input {found}"[:MESSAGE_CHARACTERS_MAX], True)


def output_problem(run: LiveRun, index: int, output: Payload | None) -> str | None:
    """Says how an output breaks the schema of its kind, or None."""
    kind = run.definition.schemas.get(run.tasks[index].kind)
    if kind is None or kind.output is None:
        return None
    found = schemas.compiled(kind.output.data).violation(output or _NULL)
    return None if found is None else str(found)


def input_problem(definition: WorkflowDefinition, given: Payload | None) -> str | None:
    """Says how the input of a run that is to start breaks the workflow's schema, or None."""
    if definition.input_schema is None:
        return None
    found = schemas.compiled(definition.input_schema.data).violation(given or _NULL)
    return None if found is None else str(found)


def conclude(run: LiveRun) -> str | None:
    """Works out the output of a run that has succeeded; says why there is none, or None."""
    if run.definition.output:
        try:
            run.output = data_flow.fields(run.definition.output, names_of(run))
        except FieldFailed as error:
            return f"the run's output cannot be worked out: {error}"
    elif run.parent_run_id:
        return _conclude_by_ends(run)
    return None


def _conclude_by_ends(run: LiveRun) -> str | None:
    output = output_of_ends(run.definition, run.graph.downstream, run.outputs)
    if len(output.data) > PAYLOAD_BYTES_MAX:
        size = f"{len(output.data)} bytes, at most {PAYLOAD_BYTES_MAX} are allowed"
        return f"the outputs of its last tasks have {size}; declare the workflow's output"
    run.output = output
    return None


def ends_of(definition: WorkflowDefinition, downstream: tuple[tuple[int, ...], ...]) -> list[int]:
    """The tasks that nothing depends on."""
    return [number for number in range(len(definition.tasks)) if not downstream[number]]


def output_of_ends(
    definition: WorkflowDefinition,
    downstream: tuple[tuple[int, ...], ...],
    outputs: Mapping[int, Payload],
) -> Payload:
    """An object of the outputs of the last tasks, by key; null for those that are not JSON."""
    value = {
        definition.tasks[number].key: orjson.Fragment(outputs[number].data)
        if outputs[number].is_json
        else None
        for number in ends_of(definition, downstream)
        if number in outputs
    }
    return Payload(orjson.dumps(value))
