"""Keys are remembered for a while, and what another coordinator does to them is found out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from tests.server.engine.conftest import PATIENCE_SECONDS, House

from tenure_server.core.ledger import records
from tenure_server.engine import keys
from tenure_server.store.errors import StoreFailed
from tenure_server.store.reads import Reads


async def _refreshed(house: House) -> None:
    """Waits for the reading that was begun."""
    task = house.engine._keys._refreshing
    assert task is not None
    await asyncio.wait_for(asyncio.shield(task), PATIENCE_SECONDS)


async def _revoke_elsewhere(house: House, key: records.ApiKey) -> None:
    """Revokes a key in the store, of which the engine hears nothing."""
    at_us = house.clock.now_us()
    await house.act(lambda acts: acts.revoke_api_key(key.api_key_id, at_us))


async def test_a_key_that_was_revoked_elsewhere_is_found_out_by_asking_alone(house: House) -> None:
    """As a stream does, whose caller says nothing more."""
    key = house.keys["one"]
    await house.engine.principal(key.secret_hash)
    await _revoke_elsewhere(house, key)
    assert house.engine.still_valid(key.api_key_id)
    assert house.engine._keys._refreshing is None, "young knowledge is not read again"
    house.clock.at_us += house.engine.settings.key_us
    assert house.engine.still_valid(key.api_key_id)
    await _refreshed(house)
    assert not house.engine.still_valid(key.api_key_id)


async def test_keys_of_many_streams_are_read_together(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings: list[int] = []
    read_all = keys.Keys._read_all

    def counted(self: keys.Keys, api_key_ids: Iterable[str]) -> list[records.ApiKey]:
        readings.append(len(list(api_key_ids)))
        return read_all(self, api_key_ids)

    monkeypatch.setattr(keys.Keys, "_read_all", counted)
    for key in house.keys.values():
        await house.engine.principal(key.secret_hash)
    house.clock.at_us += house.engine.settings.key_us
    for _ in range(3):
        assert all(house.engine.still_valid(key.api_key_id) for key in house.keys.values())
    await _refreshed(house)
    assert all(house.engine.still_valid(key.api_key_id) for key in house.keys.values())
    assert readings == [2]


async def test_a_store_that_cannot_be_read_ends_no_stream(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known stays good, and is asked for again."""

    def broken(self: Reads, api_key_id: str) -> None:
        raise StoreFailed("the disk is away, says the test")

    key = house.keys["one"]
    await house.engine.principal(key.secret_hash)
    await _revoke_elsewhere(house, key)
    house.clock.at_us += house.engine.settings.key_us
    with monkeypatch.context() as patch:
        patch.setattr(Reads, "api_key", broken)
        assert house.engine.still_valid(key.api_key_id)
        await _refreshed(house)
    assert house.engine.still_valid(key.api_key_id)
    await _refreshed(house)
    assert not house.engine.still_valid(key.api_key_id)


async def test_secrets_that_open_nothing_do_not_push_out_those_that_do(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = house.engine._keys
    monkeypatch.setattr(memory._known, "_size_max", 2)
    monkeypatch.setattr(memory._ids, "_size_max", 2)
    monkeypatch.setattr(memory._unknown, "_size_max", 2)
    key = house.keys["one"]
    await house.engine.principal(key.secret_hash)
    for number in range(5):
        assert await house.engine.principal(b"garbage %d" % number) is None
    assert house.engine.still_valid(key.api_key_id)
    assert len(memory._unknown._items) == 2
