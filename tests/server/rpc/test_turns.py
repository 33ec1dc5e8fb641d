"""Calls stand in a line of their tenant: few are served at once, many wait, more are refused."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from tenure_server.core import errors
from tenure_server.rpc import turns


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
