"""Tables of a workflow file, read key by key with their types.

What is of another type is refused with DefinitionError, in the words of a file and not of Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tenure_client import duration, graph
from tenure_client.graph import DefinitionError, Path
from tenure_client.payload import ABSENT


class Table:
    """A table of a file at its path, whose keys are all known. A key that is left out is empty."""

    def __init__(
        self, value: Any, path: Path, keys: Iterable[str], *, required: Iterable[str] = ()
    ) -> None:
        if not isinstance(value, dict):
            raise DefinitionError(path, f"must be a table of keys and values, {_is(value)}")
        for key in value:
            if key not in keys:
                hint = graph.did_you_mean(key, keys)
                raise DefinitionError((*path, key), f"is not a key that is known here{hint}")
        for key in required:
            if key not in value:
                raise DefinitionError((*path, key), "is missing")
        self.path = path
        self._value: dict[str, Any] = value

    def __contains__(self, key: str) -> bool:
        return key in self._value

    def value(self, key: str) -> Any:
        """Whatever stands there, or ABSENT."""
        return self._value.get(key, ABSENT)

    def text(self, key: str) -> str:
        """A text."""
        return text(self._value.get(key, ""), self._at(key))

    def expression(self, key: str) -> str:
        """A text that is not empty where it is given."""
        found = self.text(key)
        if key in self._value and not found.strip():
            raise DefinitionError(self._at(key), "is empty; leave it out instead")
        return found

    def whole(self, key: str) -> int:
        """A whole number."""
        value = self._value.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int):
            raise DefinitionError(self._at(key), f"must be a whole number, {_is(value)}")
        return value

    def number(self, key: str) -> float:
        """A number."""
        value = self._value.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DefinitionError(self._at(key), f"must be a number, {_is(value)}")
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self._value.get(key, False)
        if not isinstance(value, bool):
            raise DefinitionError(self._at(key), f"must be true or false, {_is(value)}")
        return value

    def span(self, key: str) -> duration.Span | None:
        """A span of time."""
        if key not in self._value:
            return None
        value = self._value[key]
        if not is_span(value):
            reason = f"must be a span of time such as 500ms, 30s, 2m or 1h30m, {_is(value)}"
            raise DefinitionError(self._at(key), reason)
        found: duration.Span = value
        return found

    def texts(self, key: str) -> list[str]:
        """A list of texts."""
        return [text(item, path) for item, path in self.items(key)]

    def items(self, key: str) -> Iterator[tuple[Any, Path]]:
        """The items of a list, each with its path."""
        value, path = self._value.get(key, []), self._at(key)
        if not isinstance(value, list):
            raise DefinitionError(path, f"must be a list, {_is(value)}")
        return ((item, (*path, number)) for number, item in enumerate(value))

    def words(self, key: str) -> dict[str, str]:
        """A table of words and texts."""
        return {word: text(item, path) for word, item, path in self.pairs(key)}

    def pairs(self, key: str) -> Iterator[tuple[str, Any, Path]]:
        """The pairs of a table whose words are free, each with its path."""
        value, path = self._value.get(key, {}), self._at(key)
        if not isinstance(value, dict):
            raise DefinitionError(path, f"must be a table of words and texts, {_is(value)}")
        return ((word, item, (*path, word)) for word, item in value.items())

    def _at(self, key: str) -> Path:
        return (*self.path, key)


def text(value: Any, path: Path) -> str:
    """A text. Raises DefinitionError for anything else."""
    if not isinstance(value, str):
        raise DefinitionError(path, f"must be text, {_is(value)}")
    return value


def is_span(value: Any) -> bool:
    """Whether a value may be a span of time."""
    return isinstance(value, int | float | str) and not isinstance(value, bool)


def _is(value: Any) -> str:
    """Says what a value is instead, in the words of a file and not of Python."""
    match value:
        case None:
            return "is empty"
        case bool():
            return f"is {str(value).lower()}"
        case int() | float():
            return f"is the number {value}"
        case str():
            return f"is the text {value[:60]!r}"
        case list():
            return "is a list"
        case _:
            return "is a table"
