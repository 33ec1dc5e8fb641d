"""Bad input: each is refused with a code, a reason and a field, and changes nothing."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Value
from tests.wire.installation import Installation
from tests.wire.raw import Before, Line, bearer

from tenure.v1 import agents_pb2, payload_pb2, runs_pb2, tenants_pb2, workflows_pb2

BAD = grpc.StatusCode.INVALID_ARGUMENT
UNKNOWN_FIELD = b"\xf8\x31\x01"  # field 799, varint 1
MIB = 1 << 20
TASKS_MAX = 20_000
EDGES_MAX = 200_000

Task = workflows_pb2.WorkflowTask


@dataclass(frozen=True, slots=True)
class Case:
    """A call that has to be refused. An empty field: the answer names none.

    A large request is made when it is asked for: every process that collects the tests would keep
    it else.
    """

    name: str
    method: str
    request: bytes | Message | Callable[[], Message]
    reason: str = "FIELD_INVALID"
    field: str = ""
    code: grpc.StatusCode = BAD
    role: str = "admin"


def start(**fields: object) -> runs_pb2.StartRunRequest:
    """A start of the known workflow."""
    return runs_pb2.StartRunRequest(workflow="known", **fields)  # type: ignore[arg-type]


def graph(*tasks: workflows_pb2.WorkflowTask, **fields: object) -> Message:
    """A registration of a workflow with these tasks."""
    definition = workflows_pb2.WorkflowDefinition(name="bad", tasks=tasks, **fields)  # type: ignore[arg-type]
    return workflows_pb2.RegisterWorkflowRequest(definition=definition)


def task(key: str, *depends_on: str, **fields: object) -> workflows_pb2.WorkflowTask:
    """A task of kind `k`."""
    return Task(key=key, kind="k", depends_on=depends_on, **fields)  # type: ignore[arg-type]


def many_tasks(count: int) -> Message:
    """A registration with that many tasks."""
    return graph(*(task(str(number)) for number in range(count)))


def many_edges() -> Message:
    """A registration with one dependency too many."""
    width = 500
    first = [task(f"a{number}") for number in range(width)]
    keys = [each.key for each in first]
    return graph(*first, *(task(f"b{n}", *keys) for n in range(EDGES_MAX // width + 1)))


def data(content: bytes, content_type: str = "") -> payload_pb2.Payload:
    """A payload of bytes."""
    return payload_pb2.Payload(data=content, content_type=content_type)


def nested_value(depth: int) -> Value:
    """A list in a list in a list …"""
    value = Value(number_value=1)
    for _ in range(depth):
        value = Value(list_value=ListValue(values=[value]))
    return value


def nested_bytes(depth: int) -> bytes:
    """The bytes of a StartRunRequest with an input nested deeper than any parser goes."""
    inner = b""
    for _ in range(depth):
        inner = _field(6, _field(1, inner))  # Value.list_value, ListValue.values
    return start().SerializeToString() + _field(3, _field(2, inner))


def _field(number: int, content: bytes) -> bytes:
    size, head = len(content), b""
    while size > 0x7F:
        head += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + head + bytes([size]) + content


_REGISTER = "Workflows/RegisterWorkflow"
_START = "Runs/StartRun"

CASES = [
    Case("an unknown field", _START, start().SerializeToString() + UNKNOWN_FIELD, field="request"),
    Case(
        "an unknown field deep inside",
        _REGISTER,
        _field(1, graph(task("a")).definition.SerializeToString() + _field(3, UNKNOWN_FIELD)),  # type: ignore[attr-defined]
        field="definition.tasks[1]",
    ),
    Case("bytes that are no message", _START, b"\xff\xff\xff\xff", field="request"),
    Case("text that is not UTF-8", _START, _field(1, b"\xff\xfe"), field="request"),
    Case("a number where text belongs", _START, b"\x08\x01", field="workflow"),
    Case(
        "a message cut short", _START, start(priority=9).SerializeToString()[:-1], field="request"
    ),
    Case("nothing at all", _START, b"", field="workflow"),
    Case("an empty registration", _REGISTER, b"", field="definition"),
    Case("a priority out of range", _START, start(priority=1001), field="priority"),
    Case("too many labels", _START, start(labels={str(n): "" for n in range(65)}), field="labels"),
    Case("a NUL in text", _START, start(request_id="a\0b"), field="request_id"),
    Case("a long request id", _START, start(request_id="x" * 101), field="request_id"),
    Case(
        "an input of 10 MB",
        _START,
        lambda: start(input=data(b'"' + b"x" * (10 * MIB) + b'"')),
        field="input",
    ),
    Case("an input that is no JSON", _START, start(input=data(b"{")), field="input"),
    Case("an input nested too deeply", _START, start(input=data(b"[" * 100_000)), field="input"),
    Case("a value nested too deeply", _START, nested_bytes(200), field="request"),
    Case("a long content type", _START, start(input=data(b"x", "a/" + "b" * 200)), field="input"),
    Case(
        "NaN as a value",
        _START,
        start(input=payload_pb2.Payload(value=Value(number_value=float("nan")))),
        field="input.value",
    ),
    Case(
        "a bad run in a batch",
        "Runs/BatchStartRuns",
        runs_pb2.BatchStartRunsRequest(requests=[start(), start(input=data(b"{"))]),
        field="requests[1].input",
    ),
    Case(
        "an unknown workflow in a batch",
        "Runs/BatchStartRuns",
        runs_pb2.BatchStartRunsRequest(
            requests=[start(), runs_pb2.StartRunRequest(workflow="unheard-of")]
        ),
        reason="NOT_FOUND",
        code=grpc.StatusCode.NOT_FOUND,
    ),
    Case(
        "more than 1,000 runs in a batch",
        "Runs/BatchStartRuns",
        runs_pb2.BatchStartRunsRequest(requests=[start()] * 1001),
        field="requests",
    ),
    Case("a workflow without tasks", _REGISTER, graph(), field="definition.tasks"),
    Case(
        "a task that depends on itself",
        _REGISTER,
        graph(task("a", "a")),
        reason="GRAPH_INVALID",
        field="definition.tasks[0].depends_on",
    ),
    Case(
        "a cycle",
        _REGISTER,
        graph(task("a", "c"), task("b", "a"), task("c", "b"), task("d", "c")),
        reason="GRAPH_INVALID",
        field="definition.tasks[0].depends_on",
    ),
    Case(
        "an unknown dependency",
        _REGISTER,
        graph(task("a"), task("b", "nobody")),
        reason="GRAPH_INVALID",
        field="definition.tasks[1].depends_on",
    ),
    Case(
        "a key twice",
        _REGISTER,
        graph(task("a"), task("a")),
        reason="GRAPH_INVALID",
        field="definition.tasks[1].key",
    ),
    Case(
        "one task too many",
        _REGISTER,
        lambda: many_tasks(TASKS_MAX + 1),
        field="definition.tasks",
    ),
    Case("100,000 tasks", _REGISTER, lambda: many_tasks(100_000), field="definition.tasks"),
    Case("too many dependencies", _REGISTER, many_edges, field="definition.tasks"),
    Case(
        "a task's input of 10 MB",
        _REGISTER,
        lambda: graph(task("a", input=data(b'"' + b"x" * (10 * MIB) + b'"'))),
        field="definition.tasks[0].input",
    ),
    Case("a key with white space", _REGISTER, graph(task("a b")), field="definition.tasks[0].key"),
    Case(
        "a negative timeout",
        _REGISTER,
        _field(
            1,
            _field(1, b"bad")
            + _field(3, task("a").SerializeToString() + _field(6, b"\x08" + b"\xff" * 9 + b"\x01")),
        ),
        field="definition.tasks[0].attempt_timeout",
    ),
    Case(
        "101 attempts",
        _REGISTER,
        graph(task("a", retry=workflows_pb2.RetryPolicy(max_attempts=101))),
        field="definition.tasks[0].retry.max_attempts",
    ),
    Case(
        "a run id that is none",
        "Runs/GetRun",
        runs_pb2.GetRunRequest(run_id="../../etc/passwd"),
        field="run_id",
    ),
    Case(
        "a negative page",
        "Runs/ListRuns",
        runs_pb2.ListRunsRequest(page_size=-1),
        field="page_size",
    ),
    Case(
        "a state that does not exist",
        "Runs/ListRuns",
        runs_pb2.ListRunsRequest(states=[99]),  # type: ignore[list-item]
        field="states[0]",
    ),
    Case(
        "a made-up page token",
        "Runs/ListRuns",
        runs_pb2.ListRunsRequest(page_token="bm90aGluZyBvZiBvdXJz"),
        reason="PAGE_TOKEN_INVALID",
    ),
    Case(
        "a tenant id that is none",
        "Tenants/CreateTenant",
        tenants_pb2.CreateTenantRequest(tenant_id="Not A Tenant"),
        field="tenant_id",
        role="operator",
    ),
    Case(
        "a tenant that exists",
        "Tenants/CreateTenant",
        tenants_pb2.CreateTenantRequest(tenant_id="beta"),
        reason="ALREADY_EXISTS",
        code=grpc.StatusCode.ALREADY_EXISTS,
        role="operator",
    ),
    Case(
        "an agent without kinds",
        "Agents/LeaseTasks",
        agents_pb2.LeaseTasksRequest(agent="host"),
        field="kinds",
        role="agent",
    ),
    Case(
        "a request id used for another content",
        _START,
        start(request_id="seed-open", priority=1),
        reason="REQUEST_ID_REUSED",
        code=grpc.StatusCode.ALREADY_EXISTS,
    ),
    Case(
        "a cancel of a run that is unknown",
        "Runs/CancelRun",
        runs_pb2.CancelRunRequest(run_id=str(uuid.UUID(int=7))),
        reason="NOT_FOUND",
        code=grpc.StatusCode.NOT_FOUND,
    ),
    Case(
        "a method that does not exist",
        "Runs/DropTables",
        b"",
        reason="METHOD_UNKNOWN",
        code=grpc.StatusCode.UNIMPLEMENTED,
    ),
    Case(
        "a service that does not exist",
        "Secrets/GetAll",
        b"",
        reason="METHOD_UNKNOWN",
        code=grpc.StatusCode.UNIMPLEMENTED,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_bad_requests_are_refused_by_field_and_change_nothing(
    case: Case, seeded: Installation, line: Line
) -> None:
    """The tables before and after are the same, and so is what else the coordinator does."""
    metadata = [bearer(await seeded.secret(case.role))]
    before = Before(seeded.folder / "tenure.db")
    request = case.request() if callable(case.request) else case.request
    said = await line.unary(case.method, request, metadata)
    assert (said.code, said.reason) == (case.code, case.reason), said.message
    assert said.fields[:1] == ((case.field,) if case.field else ())
    before.check(*([] if case.reason == "METHOD_UNKNOWN" else [case.reason]))


async def test_a_cycle_is_named_in_the_error(seeded: Installation, line: Line) -> None:
    """People see the tasks of the cycle in order, and those beside it are not blamed."""
    request = graph(task("a", "c"), task("b", "a"), task("c", "b"), task("d", "c"))
    said = await line.unary(_REGISTER, request, [bearer(await seeded.secret("admin"))])
    assert "a -> b -> c -> a" in said.message or "a → b → c → a" in said.message, said.message
