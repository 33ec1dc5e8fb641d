"""What is known of API keys, and how it is kept from growing old.

Keys can be revoked by other coordinators on the same store, which tell nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import structlog

from tenure_server.core.ledger import records
from tenure_server.engine.registry import Recent
from tenure_server.store.errors import StoreFailed
from tenure_server.store.reads import Reads

KEYS_MAX = 50_000
#: Secrets that open nothing have a place of their own: they must not push out those that do.
UNKNOWN_MAX = 1_000

T = TypeVar("T")

log = structlog.get_logger()


class Read(Protocol):
    """Runs work on a read-only connection in a thread."""

    async def __call__(self, work: Callable[[], T], /) -> T:
        """The result of the work."""


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key as it was read, and when."""

    key: records.ApiKey
    read_us: int


class Keys:
    """The keys that were used lately, `key_us` old at most."""

    def __init__(self, reads: Reads, read: Read, now_us: Callable[[], int], key_us: int) -> None:
        self._reads = reads
        self._read = read
        self._now_us = now_us
        self._key_us = key_us
        self._ids: Recent[bytes, str] = Recent(KEYS_MAX)
        self._known: Recent[str, KnownKey] = Recent(KEYS_MAX)
        #: When the hash was looked up and not found.
        self._unknown: Recent[bytes, int] = Recent(UNKNOWN_MAX)
        self._wanted: set[str] = set()
        self._refreshing: asyncio.Task[None] | None = None
        self._stopping = False

    async def stop(self) -> None:
        """Reads no more."""
        self._stopping = True
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])

    async def by_hash(self, secret_hash: bytes) -> records.ApiKey | None:
        """The key with this hash, valid or not, or None."""
        now_us = self._now_us()
        known = self._known.get(self._ids.get(secret_hash) or "")
        if known is not None and now_us - known.read_us < self._key_us:
            return known.key
        missed_us = self._unknown.get(secret_hash)
        if missed_us is not None and now_us - missed_us < self._key_us:
            return None
        key = await self._read(lambda: self._reads.api_key_by_hash(secret_hash))
        if key is None:
            self._unknown.put(secret_hash, now_us)
        else:
            self.learn([key], now_us)
        return key

    def still_valid(self, api_key_id: str) -> bool:
        """Whether a key that was valid once still is, as far as is known here.

        Knowledge that has grown old is read again for those who ask later.
        """
        known = self._known.get(api_key_id)
        if known is None:
            return False
        now_us = self._now_us()
        if now_us - known.read_us >= self._key_us:
            self._refresh(api_key_id)
        return known.key.valid_at(now_us)

    def learn(self, keys: Iterable[records.ApiKey], read_us: int) -> None:
        """Keeps keys as they were at a time."""
        for key in keys:
            self._ids.put(key.secret_hash, key.api_key_id)
            known = self._known.get(key.api_key_id)
            # A slow read must not bring a revoked key back: revoked is for good.
            if known is None or known.key.revoke_us is None or key.revoke_us is not None:
                self._known.put(key.api_key_id, KnownKey(key, read_us))

    def _refresh(self, api_key_id: str) -> None:
        self._wanted.add(api_key_id)
        if self._refreshing is None and not self._stopping:
            self._refreshing = asyncio.create_task(self._read_wanted())

    async def _read_wanted(self) -> None:
        try:
            while self._wanted:
                wanted, self._wanted = self._wanted, set()
                now_us = self._now_us()
                self.learn(await self._read(partial(self._read_all, wanted)), now_us)
        except StoreFailed as error:
            log.warning("keys could not be read again", error=str(error))
        finally:
            self._refreshing = None

    def _read_all(self, api_key_ids: Iterable[str]) -> list[records.ApiKey]:
        found = [self._reads.api_key(api_key_id) for api_key_id in api_key_ids]
        return [key for key in found if key is not None]
