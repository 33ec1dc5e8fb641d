"""Page tokens: where the next page begins, opaque to clients and good for one caller and one list.

A token is a cursor as JSON behind an HMAC-SHA256 that is keyed by the hash of the caller's secret
and covers method, tenant, filter and cursor. So a token taken from another caller, another list or
another filter is refused, and so is one that was changed by a bit.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, Protocol

import orjson
from google.protobuf.message import Message

from tenure_server.core import errors
from tenure_server.rpc.access import Caller

PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1000
_MAC_BYTES = 16

#: Where a page begins: the values by which its list is ordered.
Cursor = list[Any]


class Sized(Protocol):
    """A request with a page size."""

    @property
    def page_size(self) -> int:
        """How many at most; 0 for the default."""


def limit(request: Sized) -> int:
    """How many things a page shall hold."""
    return min(request.page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


def issue(caller: Caller, request: Message, cursor: Cursor) -> str:
    """The token of the page that begins behind the cursor."""
    body = orjson.dumps(cursor)
    return urlsafe_b64encode(_mac(caller, request, body) + body).decode()


def read(caller: Caller, request: Any) -> Cursor | None:
    """The cursor in the request's token, None for the first page. Raises PageTokenInvalid."""
    token: str = request.page_token
    if not token:
        return None
    try:
        raw = urlsafe_b64decode(token.encode())
    except (binascii.Error, ValueError):
        raise _invalid() from None
    mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
    # Decoding is lenient about stray characters and spare bits: only the one spelling counts.
    if urlsafe_b64encode(raw) != token.encode():
        raise _invalid()
    if not hmac.compare_digest(mac, _mac(caller, request, body)):
        raise _invalid()
    cursor: Cursor = orjson.loads(body)
    return cursor


def _mac(caller: Caller, request: Message, body: bytes) -> bytes:
    parts = (
        caller.rule.method.encode(),
        caller.tenant_id.encode(),
        _filter(request),
        body,
    )
    mac = hmac.new(caller.key.secret_hash, digestmod=hashlib.sha256)
    for part in parts:
        mac.update(len(part).to_bytes(4, "big"))
        mac.update(part)
    return mac.digest()[:_MAC_BYTES]


def _filter(request: Message) -> bytes:
    """What the list is of: everything in the request but the page."""
    bare = type(request)()
    bare.CopyFrom(request)
    bare.ClearField("page_token")
    bare.ClearField("page_size")
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).digest()


def _invalid() -> errors.PageTokenInvalid:
    return errors.PageTokenInvalid("page_token is not for this caller and this list")
