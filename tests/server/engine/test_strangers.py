"""Refusals of unknown callers are written down, and cannot fill the disk."""

from __future__ import annotations

from tenure_server.core.evidence import Act
from tenure_server.engine.strangers import EACH_MAX, KIND, Strangers


async def test_refusals_beyond_the_bound_are_counted_in_one_entry() -> None:
    noted: list[Act] = []
    strangers = Strangers(noted.append)
    admitted = sum(strangers.admits() for _ in range(EACH_MAX + 7))
    assert admitted == EACH_MAX
    assert not noted
    strangers.close()
    assert [(act.kind, act.subject) for act in noted] == [(KIND, {"count": "7"})]


async def test_a_new_second_begins_anew() -> None:
    noted: list[Act] = []
    strangers = Strangers(noted.append)
    for _ in range(EACH_MAX):
        strangers.admits()
    strangers.close()
    assert strangers.admits()
    strangers.close()
    assert not noted
