"""Ids of runs, agents and keys: UUIDs that are ordered by time and carry a tag of their tenant.

The layout is a version 8 UUID (RFC 9562, section 5.8):

    48 bits  milliseconds since the Unix epoch
     4 bits  version 8
    12 bits  random
     2 bits  variant
    30 bits  tenant tag: the head of SHA-256 over the tenant's id
    32 bits  random

The tag lets the tenant gate see whose a thing is without looking it up, in any message, also where
the thing does not exist. It is the first of two checks: the store adds the tenant to every query by
itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

#: How many random bytes one id takes.
RANDOM_BYTES = 6

#: The tag's owner for ids that belong to the installation: to no tenant, or to several.
INSTALLATION = ""

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-([89ab][0-9a-f]{3}-[0-9a-f]{4})[0-9a-f]{8}")


@lru_cache(maxsize=65_536)
def tenant_tag(tenant_id: str) -> int:
    """The 30 bits that ids of this tenant carry."""
    return int.from_bytes(hashlib.sha256(tenant_id.encode()).digest()[:4], "big") >> 2


def new_id(tenant_id: str, now_us: int, random: bytes) -> str:
    """Makes an id from the time and `RANDOM_BYTES` random bytes."""
    bits = int.from_bytes(random[:RANDOM_BYTES], "big")
    value = (now_us // 1000 & (1 << 48) - 1) << 80
    value |= 8 << 76 | (bits >> 32 & 0xFFF) << 64
    value |= 2 << 62 | tenant_tag(tenant_id) << 32 | bits & 0xFFFFFFFF
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def owner_of(tenant_ids: Sequence[str]) -> str:
    """Whose tag a thing of these tenants carries: its only one's, else the installation's.

    All of them see the id, and from the tag of one the others could tell that there is this one.
    """
    return tenant_ids[0] if len(tenant_ids) == 1 else INSTALLATION


def belongs(name: str, tenant_id: str) -> bool:
    """Tells whether an id carries the tag of this tenant. False for what is no id at all.

    There is one spelling of an id: small letters, with the hyphens.
    """
    match = _ID.fullmatch(name)
    return match is not None and match[1] == _tag_text(tenant_id)


@lru_cache(maxsize=65_536)
def _tag_text(tenant_id: str) -> str:
    text = f"{2 << 30 | tenant_tag(tenant_id):08x}"
    return f"{text[:4]}-{text[4:]}"
