"""What evaluating an expression may cost, told from the sizes of what it reads.

Costs are in nanoseconds of a slow machine, bounds from above: what is admitted takes less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tenure_server.core.expressions.parts import Part
from tenure_server.core.expressions.reading import Reading, Stage

#: All expressions of one evaluation together: some 50 ms.
BUDGET_NS = 50_000_000
#: More values than these are not handed to CEL.
VALUES_MAX = 100_000

_CONVERT_VALUE = 120
_TOUCH_VALUE = 40
_CONVERT_CHARACTER = 1.0
_TOUCH_CHARACTER = 0.3
_PATTERN_STEP = 2.0
_OPERATION = 150
_CALL = 5_000
_GROWTH_MAX = 1_000_000


class BudgetExceeded(ValueError):  # noqa: N818 - named for what happened
    """An evaluation is not tried: it would cost too much; the message says what is too large."""


class Budget:
    """What the expressions of one evaluation may cost together."""

    __slots__ = ("left", "spent")

    def __init__(self, nanoseconds: float = BUDGET_NS) -> None:
        self.left = nanoseconds
        self.spent = 0.0

    def note(self, nanoseconds: float) -> None:
        """Counts what has other bounds."""
        self.spent += nanoseconds

    def spend(self, nanoseconds: float) -> None:
        """Takes a cost off before it is spent. Raises BudgetExceeded when it is not there."""
        if nanoseconds > self.left:
            raise BudgetExceeded(
                "would take too long: it does too much with what it reads; read less, loop over"
                " fewer items, or leave the work to a task"
            )
        self.left -= nanoseconds
        self.spent += nanoseconds


@dataclass(frozen=True, slots=True)
class Size:
    """How large data are."""

    values: int
    characters: int
    #: Of the data itself, where it is a list or a table.
    items: int

    @property
    def convert(self) -> float:
        """What it takes to hand it to CEL, or back."""
        return _CONVERT_VALUE * self.values + _CONVERT_CHARACTER * self.characters

    @property
    def touch(self) -> float:
        """What it takes to look at all of it."""
        return _TOUCH_VALUE * self.values + _TOUCH_CHARACTER * self.characters


_NOTHING = Size(0, 0, 0)


def size_of(value: Any, budget: Budget) -> Size:
    """Tells the size of data. Raises BudgetExceeded for more than `VALUES_MAX` values."""
    values = characters = 0
    waiting = [value]
    while waiting:
        one = waiting.pop()
        values += 1
        if isinstance(one, str):
            characters += len(one)
        elif isinstance(one, (list, dict)):
            if values + len(waiting) + len(one) > VALUES_MAX:
                raise BudgetExceeded(
                    f"looks at more than {VALUES_MAX} values at once; name the part that it needs"
                )
            if isinstance(one, dict):
                values += len(one)
                keys = "".join(one)
                characters += len(keys)
                if "\0" in keys:
                    raise BudgetExceeded("looks at a key with a NUL character, which is cut off")
                waiting.extend(one.values())
            else:
                waiting.extend(one)
    items = len(value) if isinstance(value, (list, dict)) else 0
    budget.spend(_TOUCH_VALUE * values)
    return Size(values, characters, items)


def growth(of: Reading) -> int:
    """How much larger than what it reads anything in it can become by additions."""
    factor = of.rest.additions + 1
    for stage in of.stages:
        factor *= (stage.range.additions + 1) * (stage.body.additions + 1)
    return min(factor, _GROWTH_MAX)


def part_cost(part: Part, sizes: Mapping[str, Size], grown: int) -> float:
    """The most that a part outside of loops can cost."""
    read = [sizes.get(name, _NOTHING) for name in part.variables]
    convert = sum(
        size.convert
        for size in {name: sizes[name] for name in part.variables if name in sizes}.values()
    )
    touch = sum(size.touch for size in read)
    characters = sum(size.characters for size in read)
    given_back = sum(size.convert for size in read)
    return (
        _CALL
        + convert
        + given_back * grown
        + part.operations * _OPERATION
        + part.linear * touch * grown
        + part.pattern_steps * characters * grown * _PATTERN_STEP
    )


def loop_cost(
    stage: Stage, items: Size, sizes: Mapping[str, Size], grown: int, part_items: int
) -> float:
    """The most that a loop over these items can cost, its parts together."""
    body = stage.body
    rounds = max(items.items, 1)
    outer = [sizes[name] for name in body.variables if name in sizes]
    own = sum(name not in sizes for name in body.variables)
    parts = -(-rounds // part_items)
    gives = stage.macro in ("map", "filter", "exists_one")
    emitted = rounds * sum(size.convert for size in outer) + own * items.convert
    touched = rounds * sum(size.touch for size in outer) + own * items.touch
    characters = rounds * sum(size.characters for size in outer) + own * items.characters
    return (
        parts * (_CALL + sum(size.convert for size in outer))
        + items.convert
        + (items.convert if gives else 0)
        + (emitted * grown if stage.macro == "map" else 0)
        + rounds * (body.operations + 2) * _OPERATION
        + body.linear * touched * grown
        + body.pattern_steps * characters * grown * _PATTERN_STEP
    )
