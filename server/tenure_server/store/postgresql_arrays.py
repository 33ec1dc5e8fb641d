"""Columns of rows as PostgreSQL array literals.

psycopg looks at every element of a list; for the rows of the hot path that takes six times as long
as the database needs for the rest. JSON arrays, which orjson writes at once, are array literals but
for their brackets, as long as nothing in them is escaped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson
from peewee import BigIntegerField, BlobField, Field, IntegerField, TextField

from tenure_server.store import tables


def array_type(field: Field[Any]) -> str:
    """The type of an array of this field's values."""
    return _KINDS[type(field)][0]


def encoder(field: Field[Any]) -> Callable[[Sequence[Any]], str]:
    """What makes a literal of this field's values."""
    return _KINDS[type(field)][1]


def fields(table: type[tables.Table], columns: Sequence[str]) -> list[Field[Any]]:
    """The fields of some columns."""
    return [getattr(table, column) for column in columns]


def integers(values: Sequence[int | None]) -> str:
    """A literal of whole numbers."""
    return "{" + orjson.dumps(values).decode()[1:-1] + "}"


def texts(values: Sequence[str | None]) -> str:
    """A literal of texts. The zero character, which PostgreSQL cannot keep, becomes U+FFFD."""
    literal = orjson.dumps(values).decode()
    if "\\" in literal:
        literal = "[" + ",".join(map(_text, values)) + "]"
    return "{" + literal[1:-1] + "}"


def blobs(values: Sequence[bytes | None]) -> str:
    """A literal of bytes."""
    return "{" + ",".join(map(_blob, values)) + "}"


def _text(value: str | None) -> str:
    if value is None:
        return "NULL"
    escaped = (
        value.replace("\\", "\\\\").replace('"', '\\"').replace("\0", "\N{REPLACEMENT CHARACTER}")
    )
    return f'"{escaped}"'


def _blob(value: bytes | None) -> str:
    return "NULL" if value is None else f'"\\\\x{value.hex()}"'


_KINDS: dict[type[Field[Any]], tuple[str, Callable[[Sequence[Any]], str]]] = {
    TextField: ("text[]", texts),
    IntegerField: ("integer[]", integers),
    BigIntegerField: ("bigint[]", integers),
    BlobField: ("bytea[]", blobs),
}
