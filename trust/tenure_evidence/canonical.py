"""The canonical form: RFC 8785, restricted so that no two writers can differ.

Objects with ASCII names, sorted; strings; whole numbers of at most 53 bits; booleans; arrays. No
floats, no null.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import orjson

#: JSON's numbers are doubles elsewhere: beyond this, two readers may see two numbers.
NUMBER_MAX = 2**53 - 1

_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER | orjson.OPT_PASSTHROUGH_DATETIME


class NotCanonical(ValueError):  # noqa: N818 - a finding about bytes, not an error of the program
    """These bytes are not the one spelling of a statement."""


def canonical(value: dict[str, Any]) -> bytes:
    """Writes the canonical bytes of a statement.

    Raises TypeError for what JSON cannot carry and for numbers beyond 53 bits. Floats and null are
    the caller's fault and are found by `read` and `check`; looking for them here would cost more
    than the writing.
    """
    return orjson.dumps(value, option=_OPTIONS)


@lru_cache(maxsize=1 << 16)
def quoted(text: str) -> str:
    """A text as it stands in the canonical form, for who writes a statement by hand."""
    return orjson.dumps(text).decode()


def checked(value: dict[str, Any]) -> bytes:
    """Writes the canonical bytes, and looks for everything that is not allowed in them.

    Raises TypeError for floats, null and strange types, ValueError for names that are not ASCII
    and for numbers beyond 53 bits.
    """
    problem = _problem(value)
    if problem:
        raise (TypeError if problem.startswith("type") else ValueError)(problem)
    return canonical(value)


def read(data: bytes) -> dict[str, Any]:
    """Reads a statement. Raises NotCanonical when the bytes are not its one spelling."""
    try:
        value = orjson.loads(data)
        again = orjson.dumps(value, option=_OPTIONS)
    except (orjson.JSONDecodeError, TypeError) as error:
        # A TypeError also says: nested too deeply, or a number beyond 53 bits.
        raise NotCanonical(f"is not canonical JSON: {error}") from None
    if type(value) is not dict:
        raise NotCanonical("is not a JSON object")
    if again != data:
        raise NotCanonical("is JSON, but not in its canonical form")
    problem = _problem(value)
    if problem:
        raise NotCanonical(problem)
    return value


def read_json(data: bytes) -> Any:
    """Reads any JSON, in whatever spelling. Raises ValueError when it is none."""
    return orjson.loads(data)


def digest_text(data: bytes) -> str:
    """The digest of bytes as it is written in entries, such as ``sha256:9f86…``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def hash_text(raw: bytes) -> str:
    """A digest of 32 bytes as it is written in entries."""
    return "sha256:" + raw.hex()


def framed_hash(*parts: bytes) -> bytes:
    """SHA-256 over parts, each after its length in four bytes, big-endian.

    The lengths keep two lists of parts from looking alike. Gives 32 bytes.
    """
    framed = bytearray()
    for part in parts:
        framed += len(part).to_bytes(4, "big")
        framed += part
    return hashlib.sha256(framed).digest()


def _problem(value: Any) -> str:
    """Says what in a value is not allowed, or nothing.

    The depth is that of what `orjson` writes, at most 254.
    """
    kind = type(value)
    if kind is str or kind is bool:
        return ""
    if kind is int:
        return "" if -NUMBER_MAX <= value <= NUMBER_MAX else f"number {value} has over 53 bits"
    if kind is dict:
        for name, member in value.items():
            if type(name) is not str or not name.isascii():
                return f"name {name!r} is not ASCII text"
            if type(member) is not str and (problem := _problem(member)):
                return problem
        return ""
    if kind is list or kind is tuple:
        for member in value:
            if type(member) is not str and (problem := _problem(member)):
                return problem
        return ""
    return f"type {kind.__name__} is not allowed"
