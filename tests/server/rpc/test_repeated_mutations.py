"""Every mutation of the contract, repeated with its `request_id`, says what it said.

Also where the store wrote it and then failed to say so, where it failed before, and where the
coordinator was started anew between the two. A mutation that joins the contract joins by itself.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from tests.conftest import LiveCoordinator, serving, serving_again
from tests.server.rpc.test_matrix import CALLERS, METHODS, RULES, Names, _names, _open_run, _request

from tenure.v1 import runs_pb2, tenants_pb2
from tenure_server.store.errors import StoreFailed
from tenure_server.store.writer import Writer

#: Tables whose rows a mutation adds to.
MADE = (
    "tenants",
    "api_keys",
    "workflow_definitions",
    "workflow_runs",
    "schedules",
    "schedule_fires",
    "requests",
)
#: So many mutations the first contract had.
SERVED_MIN = 8
#: What is told as a stream is many acts, and of each it is remembered; see `test_bulk`.
MUTATIONS = [
    method
    for method, rule in RULES.items()
    if rule.mutation and not METHODS[method].server_streaming
]
_numbers = itertools.count(1)


class Trap:
    """The writer of a coordinator, whose next transaction can be made to fail."""

    def __init__(self, writer: Writer) -> None:
        #: "before": nothing is written; "after": everything is.
        self.when = ""
        self.sprung = 0
        for name in ("commit", "act"):
            setattr(writer, name, self._around(getattr(writer, name)))

    def _around(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def trapped(*args: Any, **kwargs: Any) -> Any:
            when, self.when = self.when, ""
            self.sprung += bool(when)
            if when == "before":
                raise StoreFailed("nothing was written, says the test")
            result = write(*args, **kwargs)
            if when == "after":
                raise StoreFailed("nobody knows, says the test")
            return result

        return trapped


@dataclass
class House:
    """A coordinator that can be started anew on the same store."""

    store: str
    folder: Path
    live: LiveCoordinator = field(init=False)
    trap: Trap = field(init=False)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    secrets: dict[str, str] = field(default_factory=dict)

    async def open(self) -> None:
        """Starts it; the callers of its first life stay."""
        key = None if self.store.startswith("sqlite:") else self.folder / "signing-key.json"
        opening = (
            serving_again(self.store, self.secrets, signing_key=key)
            if self.secrets
            else serving(self.store, self.folder)
        )
        self.live = await self.stack.enter_async_context(opening)
        self.secrets = self.live.secrets
        self.trap = Trap(self.live.server.store.writer())

    async def restart(self) -> None:
        """Throws all memory away."""
        await self.stack.aclose()
        await self.open()

    async def call(self, method: str, request: Message, caller: str) -> Message:
        """Makes a call. Raises AioRpcError."""
        rpc = METHODS[method]
        call: Any = self.live.channel.unary_unary(
            method,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(rpc.output_type).FromString,
        )
        metadata = (("authorization", f"Bearer {self.secrets[caller]}"),)
        answer: Message = await call(request, metadata=metadata)
        return answer

    async def serving(self) -> None:
        """Waits until commits are possible again."""
        reached = asyncio.Event()
        self.live.server.engine.on_serving(lambda now: reached.set() if now else None)
        await asyncio.wait_for(reached.wait(), 60)


@pytest.fixture
async def house(either_url: str, tmp_path: Path) -> AsyncIterator[House]:
    """A house on each of the databases."""
    made = House(either_url, tmp_path)
    await made.open()
    yield made
    await made.stack.aclose()


async def served(house: House) -> list[str]:
    """The mutations that this coordinator has an implementation of."""
    found = []
    for method in MUTATIONS:
        try:
            await house.call(method, GetMessageClass(METHODS[method].input_type)(), "operator")
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                continue
        found.append(method)
    assert len(found) >= SERVED_MIN
    return found


async def mutation(house: House, method: str) -> Any:
    """A request of something that was not asked for before."""
    number = next(_numbers)
    names: Names = await _names(house.live, "alpha")
    request = _request(method, names)
    if "request_id" in request.DESCRIPTOR.fields_by_name:
        request.request_id = f"repeat-{number}"
    for part in getattr(request, "requests", ()):
        part.request_id = f"part-{number}"
    if method.endswith("/CreateTenant"):
        request.tenant_id = f"gamma-{number}"
    if method.endswith("/DeleteTenant"):
        request.tenant_id = f"gone-{number}"
        made = tenants_pb2.CreateTenantRequest(tenant_id=request.tenant_id)
        await house.live.calls("operator").tenants.CreateTenant(made)
    if method.endswith("/RegisterWorkflow"):
        request.definition.name = f"flow-{number}"
    if method.endswith("/CancelRun"):
        start = runs_pb2.StartRunRequest(workflow="known")
        request.run_id = (await house.live.calls("alpha/submitter").runs.StartRun(start)).run_id
    await _open_run(house.live, method, request)
    return request


def caller_of(method: str) -> str:
    """Who may do it, an admin rather than an operator."""
    roles = RULES[method].roles
    name = next(name for name in ("admin", *CALLERS) if CALLERS[name] in roles)
    return name if name == "operator" else f"alpha/{name}"


def lasting(answer: Any) -> bytes:
    """What an answer says each time: a secret is shown once, a warning is given once."""
    said = type(answer).FromString(answer.SerializeToString())
    for name in {"secret", "warnings"} & set(said.DESCRIPTOR.fields_by_name):
        said.ClearField(name)
    data: bytes = said.SerializeToString(deterministic=True)
    return data


def counts(house: House) -> dict[str, int]:
    """How much of everything there is that a mutation makes.

    Read through the coordinator's own store: another SQLite library in this process would let go
    of its locks when it closes the file.
    """
    store = house.live.server.store
    with store.reading():
        return {
            table: store.backend.reading.execute_sql(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in MADE
        }


async def at_last(house: House, method: str, request: Message) -> Message:
    """Repeats a call until the coordinator has read its memory back."""
    while True:
        await house.serving()
        try:
            return await house.call(method, request, caller_of(method))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise


async def test_a_repeated_mutation_says_what_it_said(house: House) -> None:
    """At once, and after the coordinator was started anew."""
    said: dict[str, tuple[Message, bytes]] = {}
    for method in await served(house):
        request = await mutation(house, method)
        said[method] = request, lasting(await house.call(method, request, caller_of(method)))
    before = counts(house)
    for method, (request, answer) in said.items():
        repeated = await house.call(method, request, caller_of(method))
        assert lasting(repeated) == answer, method
    await house.restart()
    for method, (request, answer) in said.items():
        repeated = await house.call(method, request, caller_of(method))
        assert lasting(repeated) == answer, method
    assert counts(house) == before


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_mutation_whose_commit_failed_is_done_once_when_it_is_repeated(
    house: House, when: str
) -> None:
    """Whether the failed commit was kept or not, and whoever is asked afterwards."""
    said: dict[str, tuple[Message, bytes]] = {}
    for method in await served(house):
        request = await mutation(house, method)
        before = counts(house)
        house.trap.when, house.trap.sprung = when, 0
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await house.call(method, request, caller_of(method))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE, method
        assert house.trap.sprung == 1
        failed = counts(house)
        answer = lasting(await at_last(house, method, request))
        assert lasting(await house.call(method, request, caller_of(method))) == answer, method
        done = counts(house)
        assert failed == (done if when == "after" else before), method
        said[method] = request, answer
    await house.restart()
    for method, (request, answer) in said.items():
        repeated = await house.call(method, request, caller_of(method))
        assert lasting(repeated) == answer, method
    assert counts(house) == done
