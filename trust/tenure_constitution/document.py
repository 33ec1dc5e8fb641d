"""The text of a constitution, YAML or JSON, as tables, lists and text, and nothing else.

No value of a constitution is anything but text, so a plain word that YAML or JSON would read as
a number, a truth value or nothing is refused rather than guessed at. Refused too are keys that
come twice, aliases, tags, a second document, and depth that only an attack would need.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import yaml

TEXT_BYTES_MAX = 256 * 1024
DEPTH_MAX = 8

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NOT_TEXT = re.compile(
    r"|~|null|Null|NULL|true|True|TRUE|false|False|FALSE"
    r"|[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+"
    r"|[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


class DocumentError(ValueError):
    """The text cannot be read; `where` is a line such as ``line 3``, or empty."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(reason)
        self.where = where
        self.reason = reason


def read(text: str) -> Any:
    """Reads a text into tables, lists, text and what is not text. Raises DocumentError."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise DocumentError("", "holds one half of a surrogate pair") from error
    if size > TEXT_BYTES_MAX:
        raise DocumentError("", f"has {size} bytes, at most {TEXT_BYTES_MAX} are allowed")
    if text.lstrip().startswith("{"):
        try:
            value = json.loads(text, object_pairs_hook=_object)
            json.dumps(value, ensure_ascii=False).encode()
            return value
        except RecursionError as error:
            raise DocumentError("", "is nested too deeply") from error
        except UnicodeEncodeError as error:
            raise DocumentError("", "holds one half of a surrogate pair") from error
        except json.JSONDecodeError:
            pass  # YAML's tables may begin with a brace too, and it names the line
        except DocumentError:
            raise
        except ValueError as error:
            raise DocumentError("", "holds a number of thousands of digits") from error
    return _read_yaml(text)


def _read_yaml(text: str) -> Any:
    try:
        events = iter(yaml.parse(text, Loader=_LOADER))
        next(events)
        first = next(events)
        if isinstance(first, yaml.StreamEndEvent):
            raise DocumentError("", "is empty")
        value = _value(next(events), events, 0)
        next(events)
        extra = next(events)
        if not isinstance(extra, yaml.StreamEndEvent):
            raise DocumentError(_line(extra), "holds a second document")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}" if mark else ""
        raise DocumentError(where, f"is not YAML: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        reason = f"is not YAML: {error.reason} at character {error.position}"
        raise DocumentError("", reason) from error
    return value


def _value(event: Any, events: Iterator[Any], depth: int) -> Any:
    if isinstance(event, yaml.AliasEvent):
        raise DocumentError(_line(event), "aliases are not allowed here")
    if event.tag is not None:
        raise DocumentError(_line(event), f"the tag {event.tag} is not allowed here")
    if depth > DEPTH_MAX:
        raise DocumentError(_line(event), f"is nested more than {DEPTH_MAX} levels deep")
    match event:
        case yaml.ScalarEvent():
            plain = event.implicit[0] and _NOT_TEXT.fullmatch(event.value)
            return _Plain(event.value) if plain else event.value
        case yaml.SequenceStartEvent():
            items = []
            while not isinstance(event := next(events), yaml.SequenceEndEvent):
                items.append(_value(event, events, depth + 1))
            return items
        case _:
            return _table(events, depth)


def _table(events: Iterator[Any], depth: int) -> dict[str, Any]:
    table: dict[str, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        if not isinstance(event, yaml.ScalarEvent):
            raise DocumentError(_line(event), "a key must be text")
        if event.value in table:
            raise DocumentError(_line(event), f"the key {event.value!r} comes twice")
        table[event.value] = _value(next(events), events, depth + 1)
    return table


class _Plain:
    """A word without quotes that is no text: a number, a truth value, or nothing."""

    def __init__(self, word: str) -> None:
        self._word = word

    def __repr__(self) -> str:
        return self._word or "empty"


def kind_of(value: Any) -> str:
    """Says what a value is, in the words of a file and not of Python."""
    match value:
        case None:
            return "it is empty"
        case list():
            return "it is a list"
        case dict():
            return "it is a table"
        case str():
            return f"it is the text {value[:60]!r}"
        case _:
            shown = repr(value).lower()[:60] if isinstance(value, bool) else repr(value)[:60]
            return f"it is {shown}" if shown == "empty" else f"it is {shown}; put it in quotes"


def _line(event: Any) -> str:
    return f"line {event.start_mark.line + 1}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = sorted(key for key, _ in pairs)
        twice = next(key for key, after in pairwise(keys) if key == after)
        raise DocumentError("", f"the key {twice!r} comes twice in one object")
    return value
