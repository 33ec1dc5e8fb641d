"""Figures: what was measured, against which target, for people and for programs."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The metric of a scenario that failed.
COMPLETED = "completed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a figure has to reach: a least value, or a most."""

    value: float
    at_most: bool

    def met_by(self, value: float) -> bool:
        """Tells whether a value is good enough."""
        return value <= self.value if self.at_most else value >= self.value

    def __str__(self) -> str:
        return f"{'<=' if self.at_most else '>='} {spelled(self.value)}"


def at_least(value: float) -> Target:
    """The target of a figure that is better the higher it is."""
    return Target(value=value, at_most=False)


def at_most(value: float) -> Target:
    """The target of a figure that is better the lower it is."""
    return Target(value=value, at_most=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured value."""

    scenario: str
    metric: str
    value: float
    unit: str
    target: Target | None = None
    #: What each round gave; the value is their median.
    rounds: tuple[float, ...] = ()

    @property
    def ok(self) -> bool | None:
        """Whether the target is met. None: there is none."""
        return None if self.target is None else self.target.met_by(self.value)

    def as_json(self) -> dict[str, Any]:
        """The figure as plain values."""
        return {
            "scenario": self.scenario,
            "metric": self.metric,
            "value": self.value,
            "unit": self.unit,
            "target": None if self.target is None else self.target.value,
            "ok": self.ok,
            "rounds": list(self.rounds),
        }


def median(
    scenario: str, metric: str, rounds: Sequence[float], unit: str, target: Target | None = None
) -> Figure:
    """The figure of several rounds of the same measurement. Raises ValueError for none."""
    if not rounds:
        raise ValueError(f"{scenario}: {metric} was never measured")
    return Figure(
        scenario=scenario,
        metric=metric,
        value=statistics.median(rounds),
        unit=unit,
        target=target,
        rounds=tuple(rounds),
    )


def failed(scenario: str) -> Figure:
    """What stands in the record for a scenario that gave no figures."""
    return Figure(
        scenario=scenario, metric=COMPLETED, value=0, unit="", target=at_least(1), rounds=(0,)
    )


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which a part (0 to 1) of all values lie. Raises ValueError for none."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def spelled(value: float) -> str:
    """A number with as many digits as mean something."""
    if value == int(value):
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"


def table(figures: Sequence[Figure]) -> str:
    """All figures as text, one a line, with target and whether it was met."""
    head = ("scenario", "metric", "value", "unit", "target", "", "rounds")
    rows = [head, *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column == 2 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join(lines)


def write(figures: Sequence[Figure], file: Path) -> None:
    """Writes the figures as a JSON list, in one step. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    text = json.dumps([figure.as_json() for figure in figures], indent=1)
    draft.write_text(text + "\n")
    draft.replace(file)


def _row(figure: Figure) -> tuple[str, ...]:
    verdict = {None: "", True: "met", False: "MISSED"}[figure.ok]
    rounds = " ".join(spelled(value) for value in figure.rounds) if len(figure.rounds) > 1 else ""
    return (
        figure.scenario,
        figure.metric,
        spelled(figure.value),
        figure.unit,
        "" if figure.target is None else str(figure.target),
        verdict,
        rounds,
    )
