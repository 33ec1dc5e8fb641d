"""Admission of constitutions takes its time: one tenant's does not keep another's waiting."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest
from tests.server.engine.conftest import PATIENCE_SECONDS, House

from tenure_constitution.article import Constitution
from tenure_server.engine import legislature


class SlowAdmissions:
    """Stands in for the trial: each begins, and ends when the test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._changed = threading.Condition()
        self._open = threading.Event()

    def admit(self, _: Constitution, text: str) -> Constitution:
        """As the legislature's own."""
        with self._changed:
            self.begun.append(text)
            self._changed.notify_all()
        assert self._open.wait(PATIENCE_SECONDS)
        return Constitution(articles=())

    def wait_for(self, count: int) -> bool:
        """Waits until so many have begun."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self.begun) >= count, PATIENCE_SECONDS)

    def end_all(self) -> None:
        """Lets them end, and those that come."""
        self._open.set()


async def test_who_asks_often_does_not_keep_others_waiting(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowAdmissions()
    monkeypatch.setattr(legislature, "_admit", slow.admit)
    await house.add_tenant("globex")
    other = replace(house.origin, tenant_id="globex")
    enact = house.engine.legislature.enact
    often = [asyncio.create_task(enact(house.origin, f"acme {n}", None)) for n in range(3)]
    once = asyncio.create_task(enact(other, "globex", None))
    assert await asyncio.to_thread(slow.wait_for, 2)
    assert sorted(slow.begun) == ["acme 0", "globex"]
    slow.end_all()
    await asyncio.gather(*often, once)
    assert sorted(slow.begun) == ["acme 0", "acme 1", "acme 2", "globex"]
