"""What an act grants, and what is signed of it."""

from __future__ import annotations

from typing import Any

import pytest
from tests import logbook
from tests.server.core.world import task
from tests.server.engine.conftest import TENANT, House, soon

from tenure_server.core.leasing.leases import Lease
from tenure_server.engine import dispatch


async def test_an_act_grants_no_more_leases_than_its_mandate_can_carry(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each lease knows its own act, and its place there."""
    monkeypatch.setattr(dispatch, "GRANT_LEASES_MAX", 4)
    await house.register(*[task(f"t{number}") for number in range(10)])
    await house.start()
    session = house.session(slots=10)
    session.add_credits(10)
    grants: dict[int, list[Lease]] = {}
    leases: list[Lease] = []
    while len(leases) < 10:
        leases += (await soon(session)).leases
    for lease in leases:
        assert lease.grant is not None
        assert lease.event in lease.grant.events
        grants.setdefault(lease.grant.index, []).append(lease)
    assert sorted(len(granted) for granted in grants.values()) == [2, 4, 4]


async def test_nothing_is_signed_for_an_agent_that_does_not_check(house: House) -> None:
    """Its grants are evidence all the same, but no mandate goes with its leases."""
    await house.register(task("a"))
    for wants in (True, False):
        await house.start()
        session = house.session(wants_mandates=wants)
        session.add_credits(1)
        [lease] = (await soon(session)).leases
        assert (lease.grant is not None and lease.grant.mandate) == wants
        session.close()
    granted = [one["items"] for one in logbook.read(house.store).of(TENANT) if _grants(one)]
    assert [items["count"] for items in granted] == [1, 1]


def _grants(entry: dict[str, Any]) -> bool:
    return bool(entry["kind"] == "lease.grant")
