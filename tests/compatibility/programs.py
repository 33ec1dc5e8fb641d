"""Programs made with a contract that is not of today: who calls, and an agent on its stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
from tests.compatibility.contract import Contract
from tests.conftest import LiveCoordinator


class Program:
    """Calls as one caller. ``program.Runs.StartRun(…)``"""

    def __init__(
        self, contract: Contract, live: LiveCoordinator, caller: str, called: set[str]
    ) -> None:
        metadata = live.calls(caller).metadata
        for service in ("Tenants", "Workflows", "Runs", "Agents"):
            stub = getattr(contract, service)(live.channel, metadata, called)
            self.__dict__[service] = stub

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the contract has no service {name}")


class OnLine:
    """An agent that was welcomed."""

    def __init__(self, contract: Contract, call: Any, welcome: Any) -> None:
        self._contract = contract
        self._call = call
        self.welcome = welcome
        #: What came and was not asked for yet.
        self.leases: list[Any] = []
        self.outcomes: list[Any] = []
        self.standings: list[Any] = []
        self.cancellations: list[Any] = []

    async def say(self, **frame: Any) -> None:
        """Sends one frame."""
        await self._call.write(self._contract.WorkRequest(**frame))

    async def hear(self, what: str, count: int = 1) -> list[Any]:
        """Reads until so many of something have come, and takes them."""
        heap = getattr(self, what)
        while len(heap) < count:
            frame = await self._call.read()
            assert frame is not grpc.aio.EOF, await self._call.details()
            self.leases += frame.batch.leases
            self.outcomes += frame.outcomes
            self.standings += frame.standings
            self.cancellations += frame.cancellations
        taken, heap[:] = heap[:count], heap[count:]
        return list(taken)

    async def end(self) -> grpc.StatusCode:
        """Says that nothing follows, reads to the end, and gives the status."""
        await self._call.done_writing()
        while await self._call.read() is not grpc.aio.EOF:
            pass
        code: grpc.StatusCode = await self._call.code()
        return code


@asynccontextmanager
async def on_line(
    contract: Contract, program: Program, kinds: Iterable[str], **hello: Any
) -> AsyncIterator[OnLine]:
    """An agent's stream from hello to welcome, cut at the end if it still stands."""
    call = program.Agents.Work()
    said = {"agent": "old-host", "instance": "an-old-process", "kinds": kinds, "slots": 4, **hello}
    try:
        await call.write(contract.WorkRequest(hello=said))
        frame = await call.read()
        assert frame is not grpc.aio.EOF, await call.details()
        yield OnLine(contract, call, frame.welcome)
    finally:
        call.cancel()


def ref(lease: Any) -> dict[str, Any]:
    """The name of a lease."""
    return {name: getattr(lease, name) for name in ("run_id", "task_key", "term", "token")}


def success(lease: Any, output: bytes) -> dict[str, Any]:
    """A result that worked."""
    return {"lease": ref(lease), "success": {"output": {"data": output}}}
