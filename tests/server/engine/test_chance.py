"""Random bytes are drawn many at once, and each is given once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tenure_server.engine import chance
from tenure_server.engine.chance import Chance


def test_what_is_given_is_never_given_again() -> None:
    """Also to threads that draw at the same time, and over what was kept."""
    drawing = Chance()
    with ThreadPoolExecutor(4) as threads:
        drawn = list(threads.map(lambda _: drawing(16), range(5_000)))
    assert len(set(drawn)) == 5_000


@pytest.mark.parametrize("count", [0, 1, 6, 16, 17, 1000])
def test_as_many_bytes_come_as_were_asked_for(count: int) -> None:
    """More than a piece as well."""
    assert len(Chance()(count)) == count


def test_a_few_bytes_seldom_need_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """And none that were kept are given once they are forgotten."""
    draws = []

    def urandom(count: int) -> bytes:
        draws.append(count)
        return bytes([len(draws)]) * count

    monkeypatch.setattr(os, "urandom", urandom)
    drawing = Chance()
    assert {drawing(6) for _ in range(100)} == {b"\1" * 6}
    assert len(draws) == 1
    drawing.forget()
    assert drawing(6) == b"\2" * 6


def test_a_child_does_not_repeat_its_parent() -> None:
    """What was kept at the fork is forgotten there."""
    chance.draw(1)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, chance.draw(16))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read, "rb") as given:
        assert given.read() != chance.draw(16)
