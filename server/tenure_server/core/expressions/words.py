"""The words of an expression by their places, and which of them are known by themselves."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from typing import NoReturn

from tenure_constitution import tokens
from tenure_constitution.tokens import Token

DEPTH_MAX = 16

LOOPS = frozenset({"map", "filter", "all", "exists", "exists_one"})
FUNCTIONS = frozenset(
    {"size", "has", "string", "int", "uint", "double", "bool", "timestamp", "duration", "bytes"}
)
_TIMES = frozenset(
    f"get{part}"
    for part in (
        *("FullYear", "Month", "Date", "DayOfMonth", "DayOfWeek", "DayOfYear"),
        *("Hours", "Minutes", "Seconds", "Milliseconds"),
    )
)
TEXTS = frozenset({"startsWith", "endsWith", "contains", "matches", "size"})
METHODS = LOOPS | TEXTS | _TIMES
LITERALS = frozenset({"true", "false", "null", "in"})
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class ExpressionInvalid(ValueError):  # noqa: N818 - named for what happened
    """An expression is refused; the message says why."""


def refuse(reason: str) -> NoReturn:
    """Refuses the expression. Raises ExpressionInvalid, always."""
    raise ExpressionInvalid(reason)


def unbalanced() -> NoReturn:
    """Refuses the expression for its brackets."""
    refuse("has brackets that do not match")


def hint(word: str, known: Collection[str]) -> str:
    """Which known word was meant, as the end of a sentence, or nothing."""
    near = difflib.get_close_matches(word, sorted(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


class Words:
    """The tokens, by their places. Beyond them there is an empty word that is nothing.

    Raises ExpressionInvalid where brackets do not match.
    """

    __slots__ = ("match", "tokens")

    def __init__(self, found: Sequence[Token]) -> None:
        self.tokens = found
        #: Where each bracket closes, and where each opens that closes there.
        self.match = _matching(found)

    def __len__(self) -> int:
        return len(self.tokens)

    def at(self, place: int) -> str:
        return self.tokens[place].word if 0 <= place < len(self.tokens) else ""

    def is_name(self, place: int) -> bool:
        return 0 <= place < len(self.tokens) and self.tokens[place].sort is tokens.Sort.NAME

    def is_text(self, place: int) -> bool:
        return place >= 0 and self.tokens[place].sort is tokens.Sort.TEXT

    def operand(self, dot: int) -> int:
        """Where the value begins that a dot follows."""
        place = dot - 1
        while place >= 0:
            word = self.at(place)
            if word in (")", "]", "}"):
                place = self.match[place]
                before = self.at(place - 1)
                call = word == ")" and self.is_name(place - 1) and before not in LITERALS
                index = word == "]" and (
                    before in (")", "]", "}")
                    or (self.is_name(place - 1) and before not in LITERALS)
                    or self.is_text(place - 1)
                )
                if not call and not index:
                    return place
                place -= 1
            elif self.at(place - 1) == "." and self.is_name(place):
                place -= 2
            else:
                return place
        return unbalanced()

    def constant_step(self, place: int) -> tuple[str | int, int] | None:
        """The key or number of a step that is constant, and the place after it."""
        word = self.at(place)
        if word == "." and self.is_name(place + 1) and self.at(place + 2) != "(":
            return self.at(place + 1), place + 2
        if word == "[" and self.at(place + 2) == "]":
            token = self.tokens[place + 1]
            if token.sort is tokens.Sort.NUMBER and token.word.isdecimal():
                return int(token.word), place + 3
            if token.sort is tokens.Sort.TEXT and (key := _literal(token.word)) is not None:
                return key, place + 3
        return None


def _matching(found: Sequence[Token]) -> dict[int, int]:
    """Where each bracket closes, and where each opens that closes there."""
    match: dict[int, int] = {}
    opened: list[int] = []
    for place, token in enumerate(found):
        if token.sort is not tokens.Sort.SIGN:
            continue
        if token.word in _CLOSING:
            opened.append(place)
            if len(opened) > DEPTH_MAX:
                refuse(f"has brackets more than {DEPTH_MAX} levels deep")
        elif token.word in (")", "]", "}"):
            if not opened or _CLOSING[found[opened[-1]].word] != token.word:
                unbalanced()
            match[place] = opened[-1]
            match[opened.pop()] = place
    if opened:
        unbalanced()
    return match


def _literal(word: str) -> str | None:
    """What a text says, or None when it has an escape other than of a quote or a backslash."""
    if word[0] in "rR":
        return word[2:-1]
    inside = word[1:-1]
    if "\\" not in inside:
        return inside
    bare = inside.replace("\\\\", "\0")
    for quote in ("'", '"'):
        bare = bare.replace(f"\\{quote}", quote)
    return None if "\\" in bare else bare.replace("\0", "\\")
