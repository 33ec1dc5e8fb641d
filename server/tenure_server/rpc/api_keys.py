"""API keys as callers ask for them: how they are made, what may be asked, and who sees what."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence

from tenure.v1 import tenants_pb2
from tenure_server.core import errors, ids
from tenure_server.core.ledger import records
from tenure_server.rpc import access, convert

#: What a secret begins with, so that it is known for one where it should not be.
SECRET_PREFIX = "tnr_"


def new_secret() -> str:
    """A secret that nobody can guess."""
    return SECRET_PREFIX + secrets.token_urlsafe(32)


def secret_hash(secret: str) -> bytes:
    """What the store keeps of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def new_api_key(
    secret: str,
    *,
    name: str,
    roles: frozenset[records.Role],
    tenant_ids: Sequence[str],
    now_us: int,
    expire_us: int | None = None,
) -> records.ApiKey:
    """A key for a secret."""
    owners = tuple(sorted(tenant_ids))
    return records.ApiKey(
        api_key_id=ids.new_id(ids.owner_of(owners), now_us, secrets.token_bytes(ids.RANDOM_BYTES)),
        name=name,
        secret_hash=secret_hash(secret),
        roles=roles,
        tenant_ids=owners,
        create_us=now_us,
        expire_us=expire_us,
    )


def subject_of(key: records.ApiKey) -> dict[str, str]:
    """What the evidence says of a key that is made: all but its secret."""
    subject = {
        "api_key": key.api_key_id,
        "roles": " ".join(sorted(role.name.lower() for role in key.roles)),
        "tenants": " ".join(key.tenant_ids),
    }
    if key.expire_us is not None:
        subject["expires"] = str(key.expire_us)
    return subject


def roles_of(
    caller: access.Caller, request: tenants_pb2.CreateApiKeyRequest
) -> frozenset[records.Role]:
    """The roles of a new key. Raises RoleMissing and FieldsInvalid."""
    roles = frozenset(records.Role(role) for role in request.roles)
    if records.Role.OPERATOR not in roles:
        if not request.tenant_ids:
            raise errors.FieldsInvalid([("tenant_ids", "must name a tenant for these roles")])
        return roles
    if not caller.is_operator:
        raise errors.RoleMissing("only an operator gives the role operator", roles="operator")
    if request.tenant_ids:
        raise errors.FieldsInvalid([("tenant_ids", "must be empty for the role operator")])
    if len(roles) > 1:
        raise errors.FieldsInvalid([("roles", "operator cannot be joined with other roles")])
    return roles


def expiry_us(request: tenants_pb2.CreateApiKeyRequest, now_us: int) -> int | None:
    """When a new key ends; None: never. Raises FieldsInvalid."""
    if not request.HasField("expire_time"):
        return None
    expire_us = convert.timestamp_us(request.expire_time, "expire_time")
    if expire_us <= now_us:
        raise errors.FieldsInvalid([("expire_time", "lies in the past")])
    return expire_us


def visible_to(caller: access.Caller) -> Sequence[str] | None:
    """Which tenants of a key the caller may see; None for all."""
    return None if caller.is_operator else caller.tenant_ids


def within(key: records.ApiKey, caller: access.Caller) -> bool:
    """Whether a key acts for tenants of the caller only."""
    return bool(key.tenant_ids) and set(key.tenant_ids) <= set(caller.tenant_ids)
