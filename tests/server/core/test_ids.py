"""Ids are UUIDs, ordered by time, and belong to one tenant."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure_server.core import ids

TIMES = st.integers(0, (1 << 48) * 1000 - 1)
RANDOM = st.binary(min_size=ids.RANDOM_BYTES, max_size=ids.RANDOM_BYTES)
TENANTS = st.text(max_size=20).filter(lambda text: text.isascii())


@given(TENANTS, TIMES, RANDOM)
def test_an_id_is_a_uuid_of_version_eight(tenant: str, now_us: int, random: bytes) -> None:
    name = ids.new_id(tenant, now_us, random)
    value = uuid.UUID(name)
    assert str(value) == name
    assert value.version == 8
    assert value.variant == uuid.RFC_4122


@given(TENANTS, TENANTS, TIMES, RANDOM)
def test_an_id_belongs_to_its_tenant_only(
    tenant: str, other: str, now_us: int, random: bytes
) -> None:
    name = ids.new_id(tenant, now_us, random)
    assert ids.belongs(name, tenant)
    assert ids.belongs(name, other) == (tenant == other)


@given(TENANTS, TENANTS, TIMES, TIMES, RANDOM, RANDOM)
def test_ids_are_ordered_by_time(
    tenant: str, other: str, earlier: int, later: int, random: bytes, random_too: bytes
) -> None:
    if earlier // 1000 > later // 1000:
        earlier, later = later, earlier
    first = ids.new_id(tenant, earlier, random)
    second = ids.new_id(other, later, random_too)
    assert earlier // 1000 == later // 1000 or first < second


@given(TENANTS, TIMES, RANDOM, RANDOM)
def test_different_random_bytes_make_different_ids(
    tenant: str, now_us: int, random: bytes, other: bytes
) -> None:
    one, two = ids.new_id(tenant, now_us, random), ids.new_id(tenant, now_us, other)
    assert (one == two) == (random == other)


@given(st.text() | st.uuids().map(str), TENANTS)
def test_what_we_did_not_make_belongs_to_nobody(name: str, tenant: str) -> None:
    assert not ids.belongs(name, tenant)


ID = ids.new_id("acme", 1_700_000_000_000_000, b"abcdef")


@pytest.mark.parametrize(
    "name",
    [
        "{" + ID + "}",
        "urn:uuid:" + ID,
        ID.replace("-", ""),
        ID.upper(),
        ID + "\n",
        " " + ID,
        ID[:-1],
        ID + "0",
        ID[:14] + "4" + ID[15:],
        ID[:19] + "c" + ID[20:],
        ID.replace("1", "١"),
        "0x" + ID[2:],
        "",
    ],
)
def test_only_the_one_spelling_of_an_id_belongs(name: str) -> None:
    assert ids.belongs(ID, "acme")
    assert not ids.belongs(name, "acme")


def test_an_id_of_the_installation_belongs_to_no_tenant() -> None:
    name = ids.new_id(ids.INSTALLATION, 1_700_000_000_000_000, b"abcdef")
    assert ids.belongs(name, ids.INSTALLATION)
    assert not ids.belongs(name, "acme")
