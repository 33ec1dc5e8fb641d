"""Callers who go away in the middle of a change: it takes effect all the same, and at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from tests.server.core.world import task
from tests.server.engine.conftest import PATIENCE_SECONDS, TENANT, House

from tenure.v1 import tenants_pb2
from tenure_server.core import errors, ids
from tenure_server.core.ledger import records
from tenure_server.rpc import access
from tenure_server.rpc.doorway import Streams
from tenure_server.rpc.tenants import Tenants
from tenure_server.store.errors import StoreFailed

RULES = access.contract_rules()

request_ids = pytest.mark.parametrize("request_id", ["", "r"])


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """An engine whose writer can be held."""
    (tmp_path / "first").mkdir()
    house = House(tmp_path / "first")
    await house.open()
    await house.furnish()
    yield house
    await house.close()


def _service(house: House, rpc: str) -> Tenants:
    """The service, called by an operator."""
    key = records.ApiKey(
        api_key_id=ids.new_id(ids.INSTALLATION, 1, b"random"),
        name="operator",
        secret_hash=b"",
        roles=frozenset({records.Role.OPERATOR}),
        tenant_ids=(),
        create_us=1,
    )
    access.remember_caller(
        access.Caller(
            key=key,
            tenant_ids=(),
            tenant_id="",
            correlation_id="",
            rule=RULES[f"/tenure.v1.Tenants/{rpc}"],
        )
    )
    return Tenants(house.engine, house.store, Streams(house.engine))


async def _give_up_on(house: House, call: Coroutine[Any, Any, Any]) -> None:
    """Makes a call, goes away while the writer has it, and waits until all is done."""
    await house.register(task("a"))
    house.store.tricky.hold()
    held = asyncio.create_task(house.start())
    await house.store.tricky.entered()
    caller = asyncio.create_task(call)
    while not house.engine._mutations._following:  # noqa: ASYNC110 - nothing tells when it comes
        await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    following = list(house.engine._mutations._following)
    house.store.tricky.let_go()
    await held
    await asyncio.wait_for(asyncio.gather(*following), PATIENCE_SECONDS)


@request_ids
async def test_a_new_tenant_works_though_its_maker_went_away(house: House, request_id: str) -> None:
    request = tenants_pb2.CreateTenantRequest(tenant_id="new", request_id=request_id)
    await _give_up_on(house, _service(house, "CreateTenant").CreateTenant(request, None))  # type: ignore[arg-type]
    house.engine.check_seat("new")


@request_ids
async def test_new_limits_hold_though_who_set_them_went_away(house: House, request_id: str) -> None:
    request = tenants_pb2.UpdateTenantRequest(
        tenant=tenants_pb2.Tenant(tenant_id=TENANT, max_leases=7),
        update_mask=FieldMask(paths=["max_leases"]),
        request_id=request_id,
    )
    await _give_up_on(house, _service(house, "UpdateTenant").UpdateTenant(request, None))  # type: ignore[arg-type]
    assert house.engine._floor.desks[TENANT].tenant.max_leases == 7


@request_ids
async def test_a_revoked_key_ends_its_streams_though_who_revoked_it_went_away(
    house: House, request_id: str
) -> None:
    session = house.session()
    key_id = house.keys["one"].api_key_id
    request = tenants_pb2.RevokeApiKeyRequest(api_key_id=key_id, request_id=request_id)
    await _give_up_on(house, _service(house, "RevokeApiKey").RevokeApiKey(request, None))  # type: ignore[arg-type]
    assert isinstance(session.ended, errors.CredentialInvalid)
    assert not house.engine.still_valid(key_id)


async def test_what_follows_a_change_is_done_when_nobody_knows_whether_it_was_committed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New limits hold that the store has, although it said that it failed."""
    act = house.store.tricky.act

    def unsure(seats: Any, work: Any, drafts: Any) -> Any:
        act(seats, work, drafts)
        raise StoreFailed("nobody knows, says the test")

    monkeypatch.setattr(house.store.tricky, "act", unsure)
    request = tenants_pb2.UpdateTenantRequest(
        tenant=tenants_pb2.Tenant(tenant_id=TENANT, max_leases=7),
        update_mask=FieldMask(paths=["max_leases"]),
    )
    with pytest.raises(errors.StoreUnavailable):
        await _service(house, "UpdateTenant").UpdateTenant(request, None)  # type: ignore[arg-type]
    assert house.engine._floor.desks[TENANT].tenant.max_leases == 7


async def test_the_newest_version_is_known_though_who_registered_it_went_away(
    house: House,
) -> None:
    again = house.register(task("a"), task("b"))
    await _give_up_on(house, again)
    newest = await house.engine.workflows.known(TENANT, "flow", 0)
    assert newest.record.version == 2
