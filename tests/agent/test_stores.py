"""Stores keep payloads under what they are, a tenant apart from the other."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tenure_agent.stores import ObjectStore, PayloadStore, StoreError, digest_of, open_store

DATA = b"x" * 300_000


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> PayloadStore:
    url = f"file://{tmp_path}/deep/payloads/" if request.param == "file" else "memory:///payloads"
    return open_store(url)


async def test_what_was_put_is_there_under_its_digest(store: PayloadStore) -> None:
    digest = digest_of(DATA)
    uri = await store.put("acme", digest, DATA)
    assert uri == store.uri("acme", digest)
    assert uri.endswith(f"/acme/sha256/{digest[:2]}/{digest}")
    assert await store.get("acme", digest) == DATA


async def test_twice_is_the_same_as_once(store: PayloadStore) -> None:
    digest = digest_of(DATA)
    assert await store.put("acme", digest, DATA) == await store.put("acme", digest, DATA)
    assert await store.get("acme", digest) == DATA


async def test_what_another_tenant_put_is_not_there(store: PayloadStore) -> None:
    digest = digest_of(DATA)
    await store.put("acme", digest, DATA)
    with pytest.raises(StoreError, match=f"/beta/sha256/{digest[:2]}/{digest} is not there"):
        await store.get("beta", digest)


async def test_a_folder_is_for_the_agents_user_alone_and_stays(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/payloads"
    await open_store(url).put("acme", digest_of(DATA), DATA)
    assert stat.S_IMODE((tmp_path / "payloads").stat().st_mode) == 0o700
    assert await open_store(url).get("acme", digest_of(DATA)) == DATA


async def test_a_folder_that_cannot_be_written_is_an_error_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "payloads"
    store = open_store(f"file://{folder}")
    (folder / "acme").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="cannot be written: "):
        await store.put("acme", digest_of(DATA), DATA)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("/var/lib/payloads", "begins with none of file://, s3://, gs://, az://, memory://"),
        ("ftp://host/x", "begins with none of"),
        ("file://host/x", "must name a folder"),
        ("s3://", "cannot be opened"),
    ],
)
def test_what_is_no_store_is_refused_in_words(url: str, reason: str) -> None:
    with pytest.raises(StoreError) as refused:
        open_store(url)
    assert reason in str(refused.value)


def test_buckets_are_opened_without_a_word_to_them() -> None:
    store = open_store("s3://bucket/prefix")
    assert isinstance(store, ObjectStore)
    assert store.uri("acme", "ab" * 32).startswith("s3://bucket/prefix/acme/sha256/ab/abab")
