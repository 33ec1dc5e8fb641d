"""Reads what is left of a damaged bundle, so that the damaged entry can still be named.

One changed byte can spoil the base64 or the JSON of a whole file. Nothing here decides whether a
bundle is good: whatever had to be salvaged is bad already.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from typing import Any

_PAYLOAD = b'"payload":"'
_AFTER_PAYLOAD = b'","payloadType":'
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")
_INDEX = re.compile(r'\\"index\\":([0-9]{1,16})[,}]')
_ENTRY = '{"entry":"'
_ENTRIES = '"entries":['
#: What follows the entries in the canonical form.
_AFTER = '],"installation":'

#: `strict=False` lets control characters through, which a changed byte may well be.
_decoder = json.JSONDecoder(strict=False)


def payload_of(data: bytes) -> bytes:
    """The payload of an envelope whose JSON or base64 is damaged; empty when it is not found."""
    _, found, rest = data.partition(_PAYLOAD)
    text, after, _ = rest.rpartition(_AFTER_PAYLOAD)
    if not found:
        return b""
    text = (text if after else rest).rstrip(b"=")
    # In place of each wrong character a right one, so that all others keep their place.
    right = _NOT_BASE64.sub(b"A", text)
    right = right[: len(right) - (len(right) % 4 == 1)]
    payload = bytearray(b64decode(right + b"=" * (-len(right) % 4)))
    for match in _NOT_BASE64.finditer(text):
        # The right one may have been this very one; but nothing canonical has a zero byte.
        payload[min(match.start() * 6 // 8, len(payload) - 1)] = 0
    return bytes(payload)


def statement_of(payload: bytes) -> dict[str, Any]:
    """The statement in a payload that is not canonical JSON; empty when there is none.

    Entries that cannot be read are left as empty objects at their places.
    """
    text = payload.decode(errors="replace")
    whole = _read(text)
    if whole is None:
        whole = _read(_mended(text))
    return whole or {}


def index_in(entry: str) -> int | None:
    """The number that a damaged entry seems to have in its log."""
    match = _INDEX.search(entry)
    return int(match[1]) if match else None


def _read(text: str) -> dict[str, Any] | None:
    try:
        value = _decoder.decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _mended(text: str) -> str:
    """Replaces each entry that cannot be read by an empty object, and closes what was cut off."""
    head, found, rest = text.partition(_ENTRIES)
    if not found:
        return text
    # Inside of strings quotes are escaped, so this cannot stand there.
    body, after, tail = rest.rpartition(_AFTER)
    if not after:
        # Cut off, or damaged behind the entries: end the array, the predicate, the statement.
        body, after, tail = rest, "]", "}}"
    chunks = body.split(_ENTRY)
    entries: list[str] = []
    for chunk in chunks[1:]:
        entries += _chunk(_ENTRY + chunk)
    if chunks[0]:
        # The mark of the first entry itself is damaged.
        entries.insert(0, "{}")
    return head + found + ",".join(entries) + after + tail


def _chunk(text: str) -> list[str]:
    """One entry; or two, where the mark between them is damaged."""
    try:
        _, end = _decoder.raw_decode(text)
    except (ValueError, RecursionError):
        index = index_in(text)
        known = "" if index is None else json.dumps(f'{{"index":{index}}}')
        return [f'{{"entry":{known}}}' if known else "{}"]
    return [text[:end], "{}"] if text[end:].strip(", ") else [text[:end]]
