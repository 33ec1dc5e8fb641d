"""Expressions in pairs: the text in CEL, and what it means to the reference, which knows no CEL.

A meaning is a function of what there is to look at. Who looks where nothing is gets NoValue, as an
evaluation fails then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from tenure_server.core.definitions.definition import Payload

#: What there is to look at under a root such as ``run.input`` or ``tasks.t0.output``.
Look = Callable[[str], Any]
Meaning = Callable[[Look], Any]


class NoValue(Exception):  # noqa: N818 - a finding
    """An expression comes to no value."""


#: What each text means that was ever written here.
_MEANINGS: dict[str, Meaning] = {}


def _pair(text: str, meaning: Meaning) -> str:
    _MEANINGS[text] = meaning
    return text


# -- texts


def path(root: str, *fields: str) -> str:
    """A field, handed over as it is."""

    def meaning(look: Look) -> Any:
        found = look(root)
        for field in fields:
            if not isinstance(found, dict) or field not in found:
                raise NoValue(f"{root} has no {'.'.join(fields)}")
            found = found[field]
        return found

    return _pair(".".join((root, *fields)), meaning)


def more_than(text: str, number: int) -> str:
    """Whether a number is larger."""
    of = _MEANINGS[text]
    return _pair(f"{text} > {number}", lambda look: _number(of(look)) > number)


def plus(text: str, number: int) -> str:
    """A number and another one."""
    of = _MEANINGS[text]
    return _pair(f"{text} + {number}", lambda look: _number(of(look)) + number)


def longer(text: str) -> str:
    """A list of numbers, each larger by one."""
    of = _MEANINGS[text]
    return _pair(f"{text}.map(x, x + 1)", lambda look: [_number(x) + 1 for x in _list(of(look))])


def written(text: str) -> str:
    """A number as text."""
    of = _MEANINGS[text]
    return _pair(f"string({text})", lambda look: str(_number(of(look))))


def is_text(text: str, other: str) -> str:
    """Whether a text is another one."""
    of = _MEANINGS[text]
    return _pair(f"{text} == '{other}'", lambda look: of(look) == other)


def always(text: str, value: Any) -> str:
    """A literal."""
    return _pair(text, lambda _: value)


def _number(found: Any) -> int:
    if not isinstance(found, int) or isinstance(found, bool):
        raise NoValue(f"{found!r} is no number")
    return found


def _list(found: Any) -> list[Any]:
    if not isinstance(found, list):
        raise NoValue(f"{found!r} is no list")
    return found


# -- what they come to


def value(text: str, look: Look) -> Any:
    """What a text comes to. Raises NoValue."""
    return _MEANINGS[text](look)


def holds(text: str, look: Look) -> bool:
    """Whether it holds. Raises NoValue where it is neither true nor false."""
    found = value(text, look)
    if not isinstance(found, bool):
        raise NoValue(f"{found!r} is neither true nor false")
    return found


def items(text: str, look: Look) -> list[Any]:
    """A list. Raises NoValue for anything else."""
    return _list(value(text, look))


def key(text: str, look: Look) -> str:
    """A text. Raises NoValue for anything else."""
    found = value(text, look)
    if not isinstance(found, str):
        raise NoValue(f"{found!r} is no text")
    return found


def fields(bindings: Mapping[str, str], onto: Payload | None, look: Look) -> Payload | None:
    """An input with what is bound. Raises NoValue."""
    if not bindings:
        return onto
    merged = {} if onto is None else dict(orjson.loads(onto.data))
    for word, text in bindings.items():
        merged[word] = value(text, look)
    return Payload(orjson.dumps(merged, option=orjson.OPT_SORT_KEYS))


def seen(payload: Payload | None) -> Any:
    """A payload as expressions see it. Raises NoValue where it is no JSON."""
    if payload is None:
        return None
    if not payload.is_json:
        raise NoValue("it is not JSON")
    return orjson.loads(payload.data)


def said(payload: Payload | None) -> Any:
    """What a payload says, however it is written, for comparisons."""
    if payload is None or not payload.is_json:
        return payload
    return orjson.loads(payload.data)
