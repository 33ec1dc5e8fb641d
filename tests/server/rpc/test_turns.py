"""Calls stand in a line of their tenant: few are served at once, many wait, more are refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
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
#: How many calls are made, one more than may be.
BURST = 6
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


class Burst:
    """Calls of one tenant to a real coordinator, which are served until they are let go."""

    def __init__(self, live: LiveCoordinator) -> None:
        self.live = live
        self.calls: list[asyncio.Future[Any]] = []
        #: How many are served.
        self.begun = 0
        self._all_begun, self._go_on = asyncio.Event(), asyncio.Event()

    async def serve(self) -> None:
        """What is done for each."""
        self.begun += 1
        if self.begun == BURST:
            self._all_begun.set()
        await self._go_on.wait()

    async def make(self) -> None:
        """Makes them, and waits until one is answered, or none will be."""
        theirs = self.live.calls("alpha/viewer").runs
        self.calls = [asyncio.ensure_future(theirs.ListRuns(LIST)) for _ in range(BURST)]
        waiting = [*self.calls, asyncio.create_task(self._all_begun.wait())]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)

    def let_go(self) -> None:
        """Lets them end."""
        self._go_on.set()

    async def ends(self) -> Counter[str]:
        """How they have ended, and how often so."""
        answers = await asyncio.gather(*self.calls, return_exceptions=True)
        return Counter(
            from_rpc(one).reason if isinstance(one, grpc.aio.AioRpcError) else "OK"
            for one in answers
        )


@pytest.fixture
async def burst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Burst]:
    """Of six two are served at once, three may wait."""
    monkeypatch.setattr(turns, "AT_ONCE", 2)
    monkeypatch.setattr(turns, "WAITING_MAX", 3)
    list_runs = Runs.ListRuns

    async def held(runs: Runs, request: runs_pb2.ListRunsRequest, context: Any) -> Any:
        if access.caller().tenant_id == "alpha":
            await made.serve()
        return await list_runs(runs, request, context)

    monkeypatch.setattr(Runs, "ListRuns", held)
    async with serving(f"sqlite:///{tmp_path}/tenure.db", tmp_path) as live:
        made = Burst(live)
        try:
            await made.make()
            yield made
        finally:
            made.let_go()


async def test_a_burst_keeps_nobody_else_waiting(burst: Burst) -> None:
    """Beyond the bound its calls are not begun, and the first too many is told to come again."""
    assert burst.begun == 2
    [refused] = [call for call in burst.calls if call.done()]
    check_overloaded(refused.exception())
    await burst.live.calls("beta/viewer").runs.ListRuns(LIST)
    # The agents of the tenant stand in no line.
    leased = await burst.live.calls("alpha/agent").agents.LeaseTasks(LEASE)
    assert not leased.batch.leases
    assert burst.begun == 2
    burst.let_go()
    assert await burst.ends() == {"OK": 5, "OVERLOADED": 1}


async def test_whose_turn_comes_when_the_coordinator_stops_is_told_so(burst: Burst) -> None:
    """Those who are served already get their answers."""
    chain = burst.live.server._chain
    chain.closing = True
    burst.let_go()
    ends = await burst.ends()
    chain.closing = False
    assert ends == {"OK": 2, "OVERLOADED": 1, "STOPPING": 3}


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
