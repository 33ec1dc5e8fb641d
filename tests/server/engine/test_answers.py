"""A request id stands for one answer, whoever asks, and however many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tenure_server.core import errors
from tenure_server.core.ledger import records
from tenure_server.engine.answers import Answers, Key


class Shelf:
    """Stored answers, which can be read when the test lets them be."""

    def __init__(self) -> None:
        self.stored: dict[Key, records.Answer] = {}
        self.reads: list[list[Key]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.broken = False

    async def read(self, keys: Sequence[Key]) -> dict[Key, records.Answer]:
        """Reads answers."""
        self.reads.append(list(keys))
        await self.open.wait()
        if self.broken:
            raise OSError("the shelf fell down")
        return {key: self.stored[key] for key in keys if key in self.stored}


def request(name: str, content: bytes = b"content", method: str = "Start") -> records.Request:
    """A request."""
    return records.Request(request_id=name, method=method, digest=content)


def answer(content: bytes = b"content", method: str = "Start") -> records.Answer:
    """An answer to it."""
    return records.Answer(method=method, digest=content, response=b"response")


def keep(answers: Answers, tenant_id: str, request_id: str, given: records.Answer) -> None:
    """Keeps an answer whose commit is through."""
    commit: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    answers.keep(tenant_id, commit, {request_id: given})
    commit.set_result(None)


async def test_work_under_one_id_is_done_once_by_those_who_ask_together() -> None:
    shelf = Shelf()
    answers = Answers(shelf.read, lambda: 0, 1)
    done = 0

    async def work() -> bytes:
        nonlocal done
        async with answers.claim("acme", [request("r")]) as found:
            if "r" in found:
                return found["r"].response
            done += 1
            await asyncio.sleep(0)
            keep(answers, "acme", "r", answer())
            return b"response"

    assert await asyncio.gather(*(work() for _ in range(20))) == [b"response"] * 20
    assert done == 1
    assert shelf.reads == [[("acme", "r")]]


async def test_other_content_under_a_known_id_is_refused() -> None:
    shelf = Shelf()
    shelf.stored["acme", "r"] = answer()
    answers = Answers(shelf.read, lambda: 0, 1)
    for wrong in (request("r", b"other"), request("r", method="Cancel")):
        with pytest.raises(errors.RequestIdReused) as refused:
            async with answers.claim("acme", [wrong]):
                pytest.fail("the claim was given")
        assert refused.value.facts == {"request_id": "r"}
    async with answers.claim("acme", [request("r")]) as found:
        assert found == {"r": answer()}


async def test_a_failed_holder_leaves_the_claim_to_the_next() -> None:
    answers = Answers(Shelf().read, lambda: 0, 1)
    with pytest.raises(ValueError, match="no"):
        async with answers.claim("acme", [request("r")]):
            raise ValueError("no")
    async with answers.claim("acme", [request("r")]) as found:
        assert found == {}


async def test_who_gives_up_waiting_holds_nothing() -> None:
    shelf = Shelf()
    shelf.open.clear()
    answers = Answers(shelf.read, lambda: 0, 1)

    async def claim() -> None:
        async with answers.claim("acme", [request("r")]):
            pass

    first, second = asyncio.create_task(claim()), asyncio.create_task(claim())
    await asyncio.sleep(0)
    first.cancel()
    second.cancel()
    await asyncio.wait([first, second])
    shelf.open.set()
    await asyncio.wait_for(claim(), 60)


async def test_tenants_do_not_share_ids() -> None:
    answers = Answers(Shelf().read, lambda: 0, 1)
    keep(answers, "acme", "r", answer())
    async with (
        answers.claim("acme", [request("r")]) as mine,
        answers.claim("other", [request("r", b"other")]) as theirs,
    ):
        assert (mine, theirs) == ({"r": answer()}, {})


async def test_look_ups_that_arrive_together_share_a_read() -> None:
    shelf = Shelf()
    shelf.open.clear()
    answers = Answers(shelf.read, lambda: 0, 1)

    async def claim(name: str) -> None:
        async with answers.claim("acme", [request(name), request(name + "-too"), None]):
            pass

    tasks = [asyncio.create_task(claim(f"r{number}")) for number in range(50)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    shelf.open.set()
    await asyncio.gather(*tasks)
    assert sum(map(len, shelf.reads)) == 100
    assert len(shelf.reads) <= 2


async def test_batches_that_share_ids_in_any_order_do_not_wait_for_each_other() -> None:
    answers = Answers(Shelf().read, lambda: 0, 1)

    async def claim(*names: str) -> None:
        async with answers.claim("acme", [request(name) for name in names]):
            await asyncio.sleep(0)

    pairs = [("a", "b"), ("b", "a"), ("b", "c"), ("c", "a")] * 5
    await asyncio.wait_for(asyncio.gather(*(claim(*pair) for pair in pairs)), 60)


async def test_a_broken_read_reaches_everyone_who_waits_and_is_over() -> None:
    shelf = Shelf()
    answers = Answers(shelf.read, lambda: 0, 1)
    shelf.broken = True
    for _ in range(2):
        with pytest.raises(OSError, match="shelf"):
            async with answers.claim("acme", [request("r")]):
                pytest.fail("the claim was given")
    shelf.broken = False
    async with answers.claim("acme", [request("r")]) as found:
        assert found == {}


async def test_requests_without_an_id_ask_nobody() -> None:
    shelf = Shelf()
    async with Answers(shelf.read, lambda: 0, 1).claim("acme", [None, request("")]) as found:
        assert found == {}
    assert not shelf.reads
