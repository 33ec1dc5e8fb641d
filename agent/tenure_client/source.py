"""The text of a workflow file: YAML or JSON, read strictly, with the line of everything in it.

YAML is read with the core schema of YAML 1.2, whose values are those of JSON: `no` and `12:30` are
text, dates are text. So a file means the same in both languages. Refused are keys that come twice,
tags, a second document, and depth or aliases that only an attack would need.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

import yaml

from tenure_client.graph import Path

DEPTH_MAX = 100
VALUES_MAX = 5_000_000

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True)
_WORDS |= dict.fromkeys(("false", "False", "FALSE"), False)
_INTEGER = re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class SourceError(ValueError):
    """The text cannot be read. `line` counts from 1; None where it is not known."""

    def __init__(self, line: int | None, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Node:
    """A value, the line where it begins, and how many values it holds, itself included."""

    line: int
    content: Any
    size: int


def read_yaml(text: str) -> Node:
    """Reads the one document of a YAML text. Raises SourceError."""
    try:
        return _Composer(text).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = f"is not YAML: {error.problem or error.context}"
        raise SourceError(mark.line + 1 if mark else None, reason) from error
    except yaml.reader.ReaderError as error:
        reason = f"is not YAML: {error.reason} at character {error.position}"
        raise SourceError(None, reason) from error


def read_json(text: str) -> Any:
    """Reads JSON text into plain values. Raises SourceError, also for a key that comes twice."""
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except SourceError:
        raise
    except json.JSONDecodeError as error:
        reason = f"is not JSON: {error.msg.lower()} in column {error.colno}"
        raise SourceError(error.lineno, reason) from error
    except RecursionError as error:
        raise SourceError(None, "is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise SourceError(None, "holds one half of a surrogate pair") from error
    except ValueError as error:
        reason = "an integer has thousands of digits; write it as text"
        raise SourceError(None, reason) from error
    return value


def plain(node: Node) -> Any:
    """Gives the value without its lines."""
    match node.content:
        case dict() as content:
            return {key: plain(item) for key, item in content.items()}
        case list() as content:
            return [plain(item) for item in content]
        case content:
            return content


def line_of(node: Node, path: Path) -> int:
    """Gives the line of what a path leads to, or of the last thing on the way that is there."""
    for step in path:
        match node.content:
            case dict() if step in node.content:
                node = node.content[step]
            case list() if isinstance(step, int) and step < len(node.content):
                node = node.content[step]
            case _:
                break
    return node.line


class _Composer:
    """Builds nodes from the parser's events; the C composer overflows its stack on deep text."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=_LOADER))
        self._anchors: dict[str, Node] = {}

    def document(self) -> Node:
        next(self._events)
        if isinstance(next(self._events), yaml.StreamEndEvent):
            raise SourceError(None, "is empty")
        node = self._node(next(self._events), 0)
        next(self._events)
        extra = next(self._events)
        if not isinstance(extra, yaml.StreamEndEvent):
            raise SourceError(extra.start_mark.line + 1, "holds a second document")
        return node

    def _node(self, event: Any, depth: int) -> Node:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise SourceError(line, f"the alias *{event.anchor} has no anchor before it")
            return self._anchors[event.anchor]
        if event.tag is not None:
            raise SourceError(line, f"the tag {event.tag} is not allowed here")
        if depth > DEPTH_MAX:
            raise SourceError(line, f"is nested more than {DEPTH_MAX} levels deep")
        anchor, size = event.anchor, 1
        content: Any
        match event:
            case yaml.ScalarEvent():
                content = _scalar(event.value, line) if event.implicit[0] else event.value
            case yaml.SequenceStartEvent():
                content = self._sequence(depth)
                size += sum(item.size for item in content)
            case _:
                content = self._mapping(depth)
                size += sum(item.size for item in content.values())
        if size > VALUES_MAX:
            raise SourceError(line, f"holds more than {VALUES_MAX:,} values with its aliases")
        node = Node(line, content, size)
        # Only now: an alias inside its own anchor finds nothing, so nothing can contain itself.
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _sequence(self, depth: int) -> list[Node]:
        content: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            content.append(self._node(event, depth + 1))
        return content

    def _mapping(self, depth: int) -> dict[str, Node]:
        content: dict[str, Node] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            if not isinstance(event, yaml.ScalarEvent):
                raise SourceError(line, "a key must be text")
            if event.value in content:
                reason = f"the key {event.value!r} comes twice, first in line "
                raise SourceError(line, f"{reason}{content[event.value].line}")
            content[event.value] = self._node(next(self._events), depth + 1)
        return content


def _scalar(text: str, line: int) -> Any:
    """Reads an unquoted word as the core schema of YAML 1.2 does."""
    if text in _WORDS:
        return _WORDS[text]
    first = text[0]
    if first not in "+-.0123456789":
        return text
    if _INTEGER.fullmatch(text):
        if len(text) > 100:
            raise SourceError(line, "an integer has more than 100 digits; write it as text")
        # Without the sign of a base, leading zeros are just zeros.
        return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        raise SourceError(line, f"{text} is not a number that JSON knows")
    return text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = sorted(key for key, _ in pairs)
        twice = next(key for key, after in pairwise(keys) if key == after)
        raise SourceError(None, f"the key {twice!r} comes twice in one object")
    return value


def _refuse_constant(word: str) -> NoReturn:
    raise SourceError(None, f"{word} is not a number that JSON knows")
