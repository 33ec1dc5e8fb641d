"""Messages that are far too large: refused before anybody reads them, while others are served."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import ListValue, Value
from tests.conftest import LiveCoordinator
from tests.server.rpc.conftest import Refused

from tenure.v1 import payload_pb2, runs_pb2, tenants_pb2, workflows_pb2
from tenure_server.core import errors
from tenure_server.rpc import gates, sizes
from tenure_server.rpc.calls import Call

Batch = runs_pb2.BatchStartRunsRequest
Register = workflows_pb2.RegisterWorkflowRequest
Definition = workflows_pb2.WorkflowDefinition
#: Large messages are made by the tests: every process that collects these would keep them else.
Make = Callable[[], Any]


def value_of(count: int) -> payload_pb2.Payload:
    """A list of so many numbers, for people: 11 bytes each."""
    one = Value(number_value=1)
    return payload_pb2.Payload(value=Value(list_value=ListValue(values=[one] * count)))


def start(items: int = 0) -> runs_pb2.StartRunRequest:
    """The wish to start a run with a list as its input."""
    return runs_pb2.StartRunRequest(workflow="flow", input=value_of(items))


def tasks(count: int, **last: Any) -> Definition:
    """A definition of small tasks, the last of which may have more."""
    many = [workflows_pb2.WorkflowTask(key=f"t{n}", kind="k") for n in range(count - 1)]
    return Definition(
        name="flow", tasks=[*many, workflows_pb2.WorkflowTask(key="last", kind="k", **last)]
    )


HUGE = 1_000_000


@pytest.mark.parametrize(
    ("make", "field", "size"),
    [
        (lambda: start(HUGE), "input", "11"),
        (
            lambda: Batch(requests=[start(), start(), start(), start(HUGE)]),
            "requests[3].input",
            "11",
        ),
        (
            lambda: Register(definition=tasks(8, input=value_of(HUGE))),
            "definition.tasks[7].input",
            "11",
        ),
        (
            lambda: workflows_pb2.ValidateWorkflowRequest(definition=tasks(100_000)),
            "definition.tasks",
            "100000",
        ),
        (lambda: Batch(requests=[start()] * 2000), "requests", "2000"),
    ],
    ids=["start", "batch", "task", "tasks", "requests"],
)
def test_what_is_far_too_large_is_named_with_its_size(make: Make, field: str, size: str) -> None:
    message = make()
    with pytest.raises(errors.FieldsInvalid) as raised:
        sizes.check(message)
    [(path, reason)] = raised.value.violations
    assert path == field
    assert size in reason


def test_the_largest_value_that_a_payload_may_have_passes() -> None:
    """JSON writes it in one mebibyte."""
    sizes.check(start((1 << 19) - 1))


@pytest.mark.parametrize(
    ("rpc", "make", "field"),
    [
        ("runs.StartRun", lambda: start(HUGE), "input"),
        (
            "workflows.RegisterWorkflow",
            lambda: Register(definition=tasks(100_000)),
            "definition.tasks",
        ),
    ],
    ids=["value", "tasks"],
)
async def test_the_gates_never_read_what_is_far_too_large(
    coordinator: LiveCoordinator,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    rpc: str,
    make: Make,
    field: str,
) -> None:
    read: list[str] = []
    admit = gates.Contract.admit

    def noted(self: gates.Contract, call: Call, message: Any) -> None:
        read.append(message.DESCRIPTOR.name)
        admit(self, call, message)

    monkeypatch.setattr(gates.Contract, "admit", noted)
    calls = coordinator.calls("admin")
    service, method = rpc.split(".")
    refusal = await refused(getattr(getattr(calls, service), method)(make()))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(refusal.fields) == [field]
    assert not read
    await calls.tenants.GetCaller(tenants_pb2.GetCallerRequest())
    assert read == ["GetCallerRequest"]


async def test_others_are_answered_while_a_large_message_is_read(
    coordinator: LiveCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate holds the large one until the others have their answers."""
    calls = coordinator.calls("admin")
    await calls.workflows.RegisterWorkflow(
        workflows_pb2.RegisterWorkflowRequest(definition=tasks(1))
    )
    admit = gates.Contract.admit
    entered, go_on = threading.Event(), threading.Event()

    def held(self: gates.Contract, call: Call, message: Any) -> None:
        if isinstance(message, runs_pb2.StartRunRequest):
            entered.set()
            assert go_on.wait(10)
        admit(self, call, message)

    monkeypatch.setattr(gates.Contract, "admit", held)
    large = asyncio.ensure_future(calls.runs.StartRun(start(100_000)))
    assert await asyncio.to_thread(entered.wait, 10)
    for _ in range(3):
        await calls.tenants.GetCaller(tenants_pb2.GetCallerRequest())
    assert not large.done()
    go_on.set()
    run_id = (await large).run_id
    shown = await calls.runs.GetRun(runs_pb2.GetRunRequest(run_id=run_id))
    assert len(shown.run.input.data) == 200_001
