"""The notary: signs what the logs have come to, on demand and now and then.

Off the commit's path: it reads what is committed, signs it in a reader's thread, and keeps what it
signed through the writer. A checkpoint covers whole transactions, never half of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol

import structlog

from tenure_evidence.notes import Checkpoint, origin_of, sign_note
from tenure_evidence.signing import SigningKeys
from tenure_server.core.evidence import INSTALLATION
from tenure_server.core.ledger import records
from tenure_server.engine.inspection import LogBroken
from tenure_server.store import evidence_reads
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store
from tenure_server.store.evidence_reads import EvidenceReads

#: How often logs that have grown are signed, and how many in one transaction.
SIGN_SECONDS = 10.0
LOGS_AT_ONCE = 200

log = structlog.get_logger()


class Desk(Protocol):
    """What the notary needs of the engine."""

    def now_us(self) -> int:
        """The time."""

    @property
    def read(self) -> Callable[..., Awaitable[Any]]:
        """Runs work on a read-only connection in a reader thread."""

    def keep(self, work: Callable[[Acts], None]) -> Awaitable[None]:
        """Runs work in a transaction of its own, under no seat. Raises StoreUnavailable."""


class Notary:
    """Signs with the newest key of the installation."""

    def __init__(self, store: Store, keys: SigningKeys) -> None:
        self.keys = keys
        self.chain = keys.chain()
        self._store = store
        #: The newest checkpoint of each log, as far as it is known here.
        self._signed: dict[str, records.Checkpoint] = {}

    async def checkpoint(self, desk: Desk, tenant_id: str) -> records.Checkpoint:
        """The checkpoint of a log as it stands. Raises LogBroken, StoreFailed, StoreUnavailable."""
        made, new = await desk.read(self._sign, tenant_id, desk.now_us())
        if new:
            await self._keep(desk, [made])
        return made  # type: ignore[no-any-return]

    async def sign_all(self, desk: Desk, tenant_ids: Iterable[str]) -> int:
        """Signs those of these logs that have grown, and the installation's; tells how many.

        Raises StoreFailed, StoreUnavailable.
        """
        sizes = await desk.read(evidence_reads.heads, self._store)
        grown = [
            tenant_id
            for tenant_id in (INSTALLATION, *tenant_ids)
            if sizes.get(tenant_id, 0) > self._size(tenant_id)
        ]
        for start in range(0, len(grown), LOGS_AT_ONCE):
            piece = grown[start : start + LOGS_AT_ONCE]
            made = await desk.read(self._sign_several, piece, desk.now_us())
            if made:
                await self._keep(desk, made)
        return len(grown)

    def forget(self, tenant_id: str) -> None:
        """Notes that a log was erased."""
        self._signed.pop(tenant_id, None)

    def _size(self, tenant_id: str) -> int:
        known = self._signed.get(tenant_id)
        return -1 if known is None else known.size

    async def _keep(self, desk: Desk, made: Sequence[records.Checkpoint]) -> None:
        kept = [checkpoint for checkpoint in made if checkpoint.size]
        if kept:
            await desk.keep(lambda acts: acts.add_checkpoints(kept))
        for checkpoint in made:
            if checkpoint.size > self._size(checkpoint.tenant_id):
                self._signed[checkpoint.tenant_id] = checkpoint

    def _sign_several(self, tenant_ids: Sequence[str], now_us: int) -> list[records.Checkpoint]:
        made = []
        for tenant_id in tenant_ids:
            try:
                checkpoint, new = self._sign(tenant_id, now_us)
            except LogBroken as error:
                log.error("a log cannot be signed", tenant=tenant_id, reason=str(error))
                continue
            if new:
                made.append(checkpoint)
        return made

    def _sign(self, tenant_id: str, now_us: int) -> tuple[records.Checkpoint, bool]:
        """Signs a log, inside `Store.reading`. Tells whether the checkpoint is a new one."""
        reads = EvidenceReads(self._store, tenant_id)
        # The size comes first: the nodes that make its root never change.
        size = reads.size()
        known = self._signed.get(tenant_id) or reads.newest_checkpoint()
        if known is not None and known.size == size:
            self._signed[tenant_id] = known
            return known, False
        if known is not None and known.size > size:
            raise LogBroken(f"entry {size} is missing: {known.size} entries were signed for")
        try:
            root = reads.root(size)
        except KeyError as error:
            level, position = error.args[0]
            raise LogBroken(
                f"entry {position << level}: node {position} of level {level} is missing"
            ) from None
        text = Checkpoint(
            origin=origin_of(self.keys.installation, tenant_id), size=size, root=root
        ).text
        note = sign_note(self.keys.newest, text)
        return (
            records.Checkpoint(tenant_id=tenant_id, size=size, note=note, create_us=now_us),
            True,
        )


async def keep_signed(notary: Notary, desk: Desk, tenant_ids: Callable[[], Iterable[str]]) -> None:
    """Signs all logs of tenants held here now and then, until it is cancelled."""
    while True:
        await asyncio.sleep(SIGN_SECONDS)
        try:
            await notary.sign_all(desk, list(tenant_ids()))
        except Exception as error:  # noqa: BLE001 - the next turn tries again
            log.warning("the logs could not be signed", error=str(error))
