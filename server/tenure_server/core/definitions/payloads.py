"""The data that workflows carry, and what may be wrong with it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import orjson

from tenure_evidence.digests import payload_digest

PAYLOAD_BYTES_MAX = 1 << 20

_LONG_NUMBER = re.compile(rb"\d{19}")

#: A payload that says where another one lies, and what it is; see `docs/agents.md`.
REFERENCE_TYPE = "application/vnd.tenure.reference+json"
_SHA256 = re.compile(r"[0-9a-f]{64}")

JSON_TYPES = frozenset({"", "application/json"})


@dataclass(frozen=True, slots=True)
class Payload:
    """Data that a workflow carries: bytes and their media type, where empty means JSON."""

    data: bytes
    content_type: str = ""

    @property
    def is_json(self) -> bool:
        """Whether the bytes are JSON."""
        return self.content_type in JSON_TYPES

    def digest(self) -> bytes:
        """The raw digest of the bytes and their type, 32 bytes."""
        return payload_digest(self.data, self.content_type)


def payload_problem(payload: Payload) -> str | None:
    """Says what is wrong with a payload, or None: too large, or JSON that does not parse."""
    if len(payload.data) > PAYLOAD_BYTES_MAX:
        return f"has {len(payload.data)} bytes, at most {PAYLOAD_BYTES_MAX} are allowed"
    if payload.content_type == REFERENCE_TYPE and not _is_reference(payload.data):
        return "is no reference: JSON with uri, sha256 and bytes"
    if len(payload.content_type) > 127:
        return "content_type has more than 127 characters"
    if payload.is_json:
        try:
            orjson.loads(payload.data)
        except orjson.JSONDecodeError as error:
            return f"is not JSON: {error}"
    return None


def _is_reference(data: bytes) -> bool:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    match value:
        case {"uri": str(uri), "sha256": str(digest), "bytes": int(size)}:
            return bool(uri and _SHA256.fullmatch(digest)) and size >= 0
    return False


def json_of(payload: Payload) -> Any:
    """The value of a JSON payload, integers exact.

    Raises ValueError: no JSON, or an integer of more than 64 bits, which no one could hand on.
    """
    try:
        value = orjson.loads(payload.data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from error
    if _LONG_NUMBER.search(payload.data):
        # The quick reader makes a float of them.
        try:
            json.loads(payload.data, parse_int=_exact)
        except OverflowError as error:
            raise ValueError(str(error)) from error
    return value


def _exact(digits: str) -> int:
    if len(digits) > 20 or not -(1 << 63) <= int(digits) < 1 << 64:
        raise OverflowError("has an integer of more than 64 bits; write it as a string")
    return int(digits)
