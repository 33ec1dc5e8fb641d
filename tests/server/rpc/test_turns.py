"""Calls stand in a line of their tenant: few are served at once, many wait, more are refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.conftest import LiveCoordinator, serving
from tests.server.rpc.test_evidence import evidence

from tenure.v1 import agents_pb2, evidence_pb2, runs_pb2
from tenure_client.errors import from_rpc
from tenure_server.core import errors
from tenure_server.rpc import access, turns
from tenure_server.rpc.runs import Runs

LIST = runs_pb2.ListRunsRequest()
LEASE = agents_pb2.LeaseTasksRequest(agent="one", kinds=["k"])


class Calls:
    """Calls that are served until they are let go."""

    def __init__(self) -> None:
        self.turns = turns.Turns()
        #: Whose turn came, in order.
        self.served: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}

    async def make(self, name: str, owner: str = "alpha", size: int = 1) -> asyncio.Task[None]:
        """Makes a call, and lets it come as far as it can."""
        task = asyncio.create_task(self._call(name, owner, size))
        await self.rest()
        return task

    async def _call(self, name: str, owner: str, size: int) -> None:
        end = self._ends[name] = asyncio.Event()
        async with self.turns.turn(owner, size):
            self.served.append(name)
            await end.wait()

    async def end(self, name: str) -> None:
        """Lets a call end."""
        self._ends[name].set()
        await self.rest()

    async def rest(self) -> None:
        """Lets everybody go as far as he can."""
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Two at once, and three that wait."""
    monkeypatch.setattr(turns, "AT_ONCE", 2)
    monkeypatch.setattr(turns, "WAITING_MAX", 3)
    monkeypatch.setattr(turns, "WAITING_BYTES_MAX", 100)
    monkeypatch.setattr(turns, "STREAMS_MAX", 2)
    return Calls()


async def test_calls_are_served_in_the_order_in_which_they_came(calls: Calls) -> None:
    """The next when one is over."""
    tasks = [await calls.make(name) for name in "abcd"]
    assert calls.served == ["a", "b"]
    await calls.end("b")
    await calls.end("a")
    assert calls.served == ["a", "b", "c", "d"]
    for name in "cd":
        await calls.end(name)
    await asyncio.gather(*tasks)
    assert not calls.turns._lines, "nothing is kept of lines in which nobody stands"


async def test_another_tenants_call_does_not_stand_behind_them(calls: Calls) -> None:
    """Each tenant has a line of its own."""
    tasks = [await calls.make(name) for name in "abc"]
    tasks.append(await calls.make("theirs", "beta"))
    assert calls.served == ["a", "b", "theirs"]
    for name in ("a", "b", "c", "theirs"):
        await calls.end(name)
    await asyncio.gather(*tasks)


async def test_a_line_that_is_full_refuses_and_goes_on(calls: Calls) -> None:
    """By number, and by how much is held for those who wait."""
    tasks = [await calls.make(name) for name in "abcde"]
    with pytest.raises(errors.Overloaded):
        await (await calls.make("f"))
    for name in "abcde":
        await calls.end(name)
    await asyncio.gather(*tasks)
    tasks = [await calls.make(name, size=60) for name in "ghi"]
    with pytest.raises(errors.Overloaded):
        await (await calls.make("j", size=60))
    for name in "ghi":
        await calls.end(name)
    await asyncio.gather(*tasks)
    assert calls.served == [*"abcdeghi"]


async def test_who_goes_away_while_he_waits_is_passed_over(calls: Calls) -> None:
    """Also in the very moment in which his turn came: the next one gets it."""
    tasks = {name: await calls.make(name) for name in "abcde"}
    tasks["c"].cancel()
    await calls.rest()
    calls._ends["a"].set()
    await asyncio.sleep(0)
    tasks["d"].cancel()
    await calls.rest()
    assert calls.served[-1] == "e"
    for name in "be":
        await calls.end(name)
    done = await asyncio.gather(*tasks.values(), return_exceptions=True)
    assert [isinstance(it, asyncio.CancelledError) for it in done] == [
        False,
        False,
        True,
        True,
        False,
    ]
    assert not calls.turns._lines


async def test_a_tenant_has_so_many_streams_and_no_more(calls: Calls) -> None:
    """One that ends makes room."""
    with ExitStack() as open_streams:
        for owner in ("alpha", "beta", "alpha"):
            open_streams.enter_context(calls.turns.stream(owner))
        with pytest.raises(errors.Overloaded), calls.turns.stream("alpha"):
            pytest.fail("a third stream was opened")
        with calls.turns.stream("beta"):
            pass
    with calls.turns.stream("alpha"):
        assert set(calls.turns._streams) == {"alpha"}


async def test_who_calls_beyond_his_bound_keeps_nobody_else_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """His calls wait before they are read, and the first too many is told to come again."""
    monkeypatch.setattr(turns, "AT_ONCE", 2)
    monkeypatch.setattr(turns, "WAITING_MAX", 3)
    list_runs = Runs.ListRuns
    begun, all_begun, go_on = 0, asyncio.Event(), asyncio.Event()

    async def held(runs: Runs, request: runs_pb2.ListRunsRequest, context: Any) -> Any:
        nonlocal begun
        if access.caller().tenant_id == "alpha":
            begun += 1
            if begun == len(calls):
                all_begun.set()
            await go_on.wait()
        return await list_runs(runs, request, context)

    monkeypatch.setattr(Runs, "ListRuns", held)
    async with serving(f"sqlite:///{tmp_path}/tenure.db", tmp_path) as live:
        theirs, others = live.calls("alpha/viewer").runs, live.calls("beta/viewer").runs
        calls = [asyncio.ensure_future(theirs.ListRuns(LIST)) for _ in range(6)]
        try:
            waiting = [*calls, asyncio.create_task(all_begun.wait())]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert begun == 2, "the others wait for their turn"
            [refused] = [call for call in calls if call.done()]
            check_overloaded(refused.exception())
            await others.ListRuns(LIST)
            # Agents stand in no line.
            leased = await live.calls("alpha/agent").agents.LeaseTasks(LEASE)
            assert not leased.batch.leases
            assert (begun, sum(call.done() for call in calls)) == (2, 1)
        finally:
            go_on.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(one, grpc.aio.AioRpcError) for one in answers].count(True) == 1


async def watched(live: LiveCoordinator, who: str, _: int) -> Any:
    """A stream that only speaks."""
    request = evidence_pb2.WatchEntriesRequest()
    return evidence(live, f"{who}/viewer").WatchEntries(request)


async def at_work(live: LiveCoordinator, who: str, number: int) -> Any:
    """A stream on which both sides speak."""
    call = live.calls(f"{who}/agent").agents.Work()
    hello = agents_pb2.Hello(agent=f"agent-{number}", instance="instance-1", kinds=["k"], slots=1)
    await call.write(agents_pb2.WorkRequest(hello=hello))
    return call


@pytest.mark.parametrize("opened", [watched, at_work])
async def test_a_stream_too_many_is_told_to_come_again(
    coordinator: LiveCoordinator, opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those of others are opened."""
    monkeypatch.setattr(turns, "STREAMS_MAX", 2)
    for who in ("alpha", "beta"):
        # From now on there is something to watch.
        await coordinator.calls(f"{who}/viewer").runs.ListRuns(LIST)
    streams = [await opened(coordinator, "alpha", number) for number in range(2)]
    for stream in streams:
        assert await stream.read()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await (await opened(coordinator, "alpha", 2)).read()
    check_overloaded(refused.value)
    streams.append(await opened(coordinator, "beta", 3))
    assert await streams[-1].read()
    for stream in streams:
        stream.cancel()


def check_overloaded(error: BaseException | None) -> None:
    """Wants a caller to be told why, and when to come again."""
    assert isinstance(error, grpc.aio.AioRpcError)
    told = from_rpc(error)
    assert (error.code(), told.reason) == (grpc.StatusCode.UNAVAILABLE, "OVERLOADED")
    assert told.retry_after
