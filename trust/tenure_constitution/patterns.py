"""Regular expressions of articles: how large they can grow, told before anything compiles them.

The engine is RE2: no pattern takes more than linear time in the text, but a counted repetition
multiplies what is repeated, and the engine compiles a pattern anew each time it is asked.
"""

from __future__ import annotations

import math
import re

CHARACTERS_MAX = 200
LOOP_CHARACTERS_MAX = 64
#: The product of all counts in a pattern.
REPEATS_MAX = 256
#: Steps of the pattern when all that is repeated is written out. For all patterns of an article.
WEIGHT_MAX = 2000
#: What stands for most of Unicode takes several steps, one for each length of its bytes.
_WIDE_WEIGHT = 8

_COUNTED = re.compile(r"\{(\d*),?(\d*)\}")
_ATOM = re.compile(
    r"""
    (?P<counted>\{\d*,?\d*\})
    |(?P<wide>\.|\\[WDSx](\{[0-9a-fA-F]*\})?|\[\^)
    |\\.
    |\[(?P<inside>\]?(\\.|\[:\^?\w+:\]|[^\]\\])*)\]
    |.
    """,
    re.VERBOSE | re.DOTALL,
)
_NARROW = re.compile(r"(?!.*\\[WDSx])(?!.*:\^)[\x00-\x7f]*", re.DOTALL)


class PatternError(ValueError):
    """A pattern is refused; the message says why."""


def weight(literal: str, *, looping: bool) -> int:
    """Gives about how many steps a pattern has; `looping` says that it is asked once an item.

    Takes the literal as it stands, with its quotes. Raises PatternError.
    """
    pattern = _decoded(literal)
    limit = LOOP_CHARACTERS_MAX if looping else CHARACTERS_MAX
    if len(pattern) > limit:
        where = " inside a loop" if looping else ""
        raise PatternError(f"a pattern{where} has more than {limit} characters")
    if re.search(r"\\[pPCQ]", pattern):
        raise PatternError(r"a pattern has one of \p \P \C \Q, which are not allowed")
    # Counted wherever it stands, even where it means the characters themselves: never too few.
    counts = [
        max(int(count) for count in counted.groups(default="") if count)
        for counted in _COUNTED.finditer(pattern)
        if any(counted.groups())
    ]
    if looping and counts:
        raise PatternError("a pattern inside a loop has a counted repetition such as {3}")
    repeats = math.prod(max(count, 1) for count in counts)
    if repeats > REPEATS_MAX:
        raise PatternError(f"a pattern repeats more than {REPEATS_MAX} times in all")
    return repeats * sum(map(_steps, _ATOM.finditer(pattern)))


def _decoded(literal: str) -> str:
    if literal[0] in "rR":
        return literal[2:-1]
    pattern = literal[1:-1]
    # Other escapes could spell what is counted.
    if "\\" in pattern.replace("\\\\", ""):
        raise PatternError("a pattern with a backslash must be a raw text, as in r'\\d+'")
    return pattern.replace("\\\\", "\\")


def _steps(atom: re.Match[str]) -> int:
    if atom["counted"]:
        return 0
    inside = atom["inside"]
    wide = atom["wide"] or (inside is not None and not _NARROW.fullmatch(inside))
    return _WIDE_WEIGHT if wide else 1
