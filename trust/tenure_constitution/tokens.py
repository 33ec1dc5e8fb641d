"""The tokens of an article's expression: a part of CEL's, so that bounds can be counted.

Whatever this reads, CEL's own lexer reads the same way. What could be read in two ways, or is of
no use to an article, is refused: characters beyond ASCII outside of texts, control characters,
comments, bytes, texts in triple quotes, names in back quotes, and braces, which only the data flow
of a workflow may use.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass


class Sort(enum.Enum):
    """What a token is."""

    NAME = "name"
    TEXT = "text"
    NUMBER = "number"
    SIGN = "sign"


@dataclass(frozen=True, slots=True)
class Token:
    """One token. For a text, `word` is the literal as it stands, with its quotes."""

    sort: Sort
    word: str


class TokenError(ValueError):
    """The expression cannot be read; the message says why."""


_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\n]+)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<number>0x[0-9a-fA-F]+|[0-9]+(\.[0-9]+)?)
    |(?P<sign>&&|\|\||[=!<>]=|[-+*/%!<>()\[\]{}.,?:])
    """,
    re.VERBOSE,
)
_TEXT = re.compile(r"""[rR]?("([^"\\\n]|\\[^\n])*"|'([^'\\\n]|\\[^\n])*')""")
_RAW_TEXT = re.compile(r"""[rR]("[^"\n]*"|'[^'\n]*')""")
_TEXT_BEGINS = re.compile(r"""[rRbB]{0,2}["']""")


def read(expression: str, *, braces: bool = False) -> list[Token]:
    """Reads an expression into tokens; `braces` allows literals of tables. Raises TokenError."""
    tokens: list[Token] = []
    position = 0
    while position < len(expression):
        if begin := _TEXT_BEGINS.match(expression, position):
            token = _text(expression, position, begin.group())
            tokens.append(token)
            position += len(token.word)
            continue
        if expression.startswith("//", position):
            raise TokenError("comments are not allowed")
        match = _TOKEN.match(expression, position)
        if match is None or (not braces and match.group() in ("{", "}")):
            raise TokenError(f"{expression[position]!a} is not allowed outside of a text")
        if match.lastgroup != "space":
            # The inner group of a number comes last, so the sort is told by what matched.
            name = "number" if match["number"] else match.lastgroup
            tokens.append(Token(Sort(name), match.group()))
        position = match.end()
    return tokens


def _text(expression: str, position: int, begin: str) -> Token:
    if "b" in begin.lower() or len(begin) > 2:
        raise TokenError("bytes are not allowed")
    if expression.startswith(begin[-1] * 3, position + len(begin) - 1):
        raise TokenError("texts in triple quotes are not allowed")
    pattern = _RAW_TEXT if begin[0] in "rR" else _TEXT
    match = pattern.match(expression, position)
    if match is None:
        raise TokenError("a text does not end")
    if not match.group().isprintable():
        raise TokenError("a text holds a character that cannot be printed")
    return Token(Sort.TEXT, match.group())
