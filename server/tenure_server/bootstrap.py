"""The first keys of an empty store: a tenant, an operator, an admin and an agent."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import orjson
import structlog

from tenure_server.core import errors
from tenure_server.core.ledger import records
from tenure_server.core.ledger.records import Role
from tenure_server.engine.engine import Engine
from tenure_server.rpc.api_keys import new_api_key, new_secret
from tenure_server.rpc.tenants import MAX_LEASES_DEFAULT, WEIGHT_DEFAULT
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store
from tenure_server.store.reads import Reads

#: Names in the file, and what their keys may do.
KEYS: dict[str, frozenset[Role]] = {
    "operator": frozenset({Role.OPERATOR}),
    "admin": frozenset({Role.TENANT_ADMIN}),
    "agent": frozenset({Role.AGENT}),
}
_MADE = b"made"

log = structlog.get_logger()


async def bootstrap(engine: Engine, store: Store, file: Path, tenant_id: str) -> None:
    """Makes the first tenant and keys, and writes their secrets for the owner's eyes only.

    Does nothing in a store that has keys. The file is written before the keys are: a crash in
    between leaves a file that the next start replaces, never keys that nobody knows.
    """
    reads = Reads(store)
    if await engine.read(reads.has_api_keys):
        log.info("the store has keys already, so none were made", bootstrap=str(file))
        return
    now_us = engine.now_us()
    words = {name: new_secret() for name in KEYS}
    keys = [
        new_api_key(
            words[name],
            name=f"bootstrap {name}",
            roles=roles,
            tenant_ids=() if Role.OPERATOR in roles else (tenant_id,),
            now_us=now_us,
        )
        for name, roles in KEYS.items()
    ]

    def work(acts: Acts) -> bytes:
        with store.reading():
            if reads.has_api_keys():
                return b""
            known = reads.tenant(tenant_id)
        if known is None:
            acts.create_tenant(
                records.Tenant(
                    tenant_id=tenant_id,
                    display_name=tenant_id,
                    max_leases=MAX_LEASES_DEFAULT,
                    weight=WEIGHT_DEFAULT,
                    create_us=now_us,
                )
            )
        for key in keys:
            acts.create_api_key(key)
        return _MADE

    write_private(file, orjson.dumps({"tenant": tenant_id, **words}, option=orjson.OPT_INDENT_2))
    try:
        made = await engine.mutate(tenants=(), remember_under="", request=None, work=work)
    except errors.AlreadyExists:
        # Another one's tenant came between our look and our insert, and its keys with it.
        made = b""
    except errors.Refusal:
        _withdraw(file)
        raise
    if made != _MADE:
        # Another coordinator on the same PostgreSQL was faster: our words open nothing.
        _withdraw(file)
        log.warning("another coordinator made the first keys", bootstrap=str(file))
        return
    await engine.after_tenant_change(tenant_id)
    log.info("made the first keys", tenant=tenant_id, bootstrap=str(file))


def _withdraw(file: Path) -> None:
    file.unlink(missing_ok=True)


def write_private(file: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Writes a file in one step: others see all of it or none. Raises OSError."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
