"""Queries built once: Peewee's SQL with named slots where the values go.

Peewee takes a fifth of a millisecond to build a query and a few microseconds to run one that is
built. So the queries of the store are constants of their modules, with slots instead of values;
each database builds each of them on its first use and keeps the text.

A list of values goes into a row of slots whose length is a power of two, so that a handful of texts
serves lists of every length; what is left over repeats the last value.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peewee import Node, Value

from tenure_server.store.backend import Database

#: The most values that go into one list.
LIST_MAX = 256


class Slot:
    """A place for a value; with a position, for one value of a list."""

    __slots__ = ("name", "position")

    def __init__(self, name: str, position: int | None = None) -> None:
        self.name = name
        self.position = position

    def pick(self, values: Mapping[str, Any]) -> Any:
        """Takes this slot's value out of all the values."""
        value = values[self.name]
        return value if self.position is None else value[self.position]


def slot(name: str) -> Value:
    """A named slot to be compared with a field. The value must be of the database's own types."""
    return Value(Slot(name), False)


def slots(name: str, length: int) -> list[Value]:
    """The slots of a list."""
    return [Value(Slot(name, position), False) for position in range(length)]


def pieces(values: Sequence[Any]) -> Iterator[list[Any]]:
    """Cuts a list into pieces of at most `LIST_MAX`, each filled up to a power of two."""
    for start in range(0, len(values), LIST_MAX):
        piece = list(values[start : start + LIST_MAX])
        missing = (1 << (len(piece) - 1).bit_length()) - len(piece)
        yield piece + piece[-1:] * missing


class Statement:
    """A query as text, with what it takes in which order."""

    __slots__ = ("_takes", "names", "sql")

    def __init__(self, database: Database, query: Node) -> None:
        self.sql, self._takes = database.get_sql_context().sql(query).query()
        self.names = frozenset(take.name for take in self._takes if isinstance(take, Slot))

    def parameters(self, values: Mapping[str, Any]) -> list[Any]:
        """The values in the order in which the text takes them."""
        return [take.pick(values) if isinstance(take, Slot) else take for take in self._takes]


class Statements:
    """The statements of one database, each built on its first use."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # The query is kept too, so that its identity is never given to another.
        self._built: dict[int, tuple[Node, Statement]] = {}

    def of(self, query: Node) -> Statement:
        """The statement of a query that lives as long as the process."""
        built = self._built.get(id(query))
        if built is None:
            built = self._built[id(query)] = (query, Statement(self._database, query))
        return built[1]

    def rows(self, query: Node, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Runs a query and gives its rows as the driver has them."""
        statement = self.of(query)
        return self._database.execute_sql(statement.sql, statement.parameters(values)).fetchall()

    def run(self, query: Node, values: Mapping[str, Any]) -> int:
        """Runs a writing query and tells how many rows it touched."""
        statement = self.of(query)
        cursor = self._database.execute_sql(statement.sql, statement.parameters(values))
        return self._database.rows_affected(cursor)
