"""The trend of a compliance report as SVG: what was judged each day, and what was objected to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tenure.v1 import constitution_pb2
from tenure_client.cli.markup import Markup, element

WIDTH = 960.0
_LEFT, _RIGHT = 64.0, 8.0
_ACTS_TOP, _ACTS_HEIGHT = 26.0, 120.0
_OBJECTED_TOP, _OBJECTED_HEIGHT = 194.0, 90.0
_HEIGHT = _OBJECTED_TOP + _OBJECTED_HEIGHT + 26.0
#: More bars than this are too thin to see: then each stands for a week.
_DAYS_MAX = 190
_LABELS_MAX = 10
_LABEL_WIDTH = 70.0

#: What the lower bars are made of, from the bottom up: class of the style, and its words.
PARTS = (
    ("denied", "denied by the constitution"),
    ("refused", "refused by another gate"),
    ("warned", "warned of by the constitution"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One day, or one week, of the trend."""

    label: str
    acts: int
    denied: int
    refused: int
    warned: int

    @property
    def objected(self) -> int:
        """How high the lower bar is."""
        return self.denied + self.refused + self.warned


def bars(days: Sequence[constitution_pb2.DayReport]) -> list[Bar]:
    """Turns days into bars: one for each, or one for seven where there are too many."""
    step = 1 if len(days) <= _DAYS_MAX else 7
    found = []
    for start in range(0, len(days), step):
        group = days[start : start + step]
        first = _date(group[0])
        found.append(
            Bar(
                label=first if step == 1 else f"{first} and the six days after",
                acts=sum(day.acts for day in group),
                denied=sum(day.denied for day in group),
                # What the constitution denied is among the refusals; each is drawn once.
                refused=sum(max(0, day.refusals - day.denied) for day in group),
                warned=sum(day.warned for day in group),
            )
        )
    return found


def chart(days: Sequence[constitution_pb2.DayReport]) -> Markup:
    """Draws the trend: acts above, objections and refusals below, on the same days."""
    drawn = bars(days)
    if not any(bar.acts or bar.objected for bar in drawn):
        return element("p", "Nothing was judged in this period.", class_="quiet")
    slot = (WIDTH - _LEFT - _RIGHT) / len(drawn)
    # One or few days are not stretched over the whole width.
    slot = min(slot, 48.0)
    acts_top = _ceiling(max(bar.acts for bar in drawn))
    objected_top = _ceiling(max(bar.objected for bar in drawn))
    parts: list[Markup] = [
        element("title", "Acts judged, and objections, by day"),
        _heading("Acts judged", _ACTS_TOP),
        *_scale(acts_top, _ACTS_TOP, _ACTS_HEIGHT),
        _heading("Refused, denied, warned of", _OBJECTED_TOP),
        *_scale(objected_top, _OBJECTED_TOP, _OBJECTED_HEIGHT),
    ]
    for number, bar in enumerate(drawn):
        parts.append(_bar(bar, _LEFT + number * slot, slot, acts_top, objected_top))
    parts += _dates(drawn, slot)
    return element(
        "svg",
        parts,
        viewBox=f"0 0 {WIDTH:g} {_HEIGHT:g}",
        role="img",
        class_="trend",
    )


def legend() -> Markup:
    """Says what the colours mean."""
    items = [("acts", "acts judged"), *PARTS]
    return element(
        "ul",
        [element("li", element("span", class_=f"key {name}"), words) for name, words in items],
        class_="legend",
    )


def _bar(bar: Bar, left: float, slot: float, acts_top: int, objected_top: int) -> Markup:
    gap = min(2.0, slot * 0.2)
    words = f"{bar.label}: {bar.acts:,} judged, {bar.denied:,} denied, "
    words += f"{bar.refused:,} refused by another gate, {bar.warned:,} warned of"
    boxes = [element("title", words)]
    boxes.append(
        element(
            "rect",
            class_="hover",
            x=left,
            y=_ACTS_TOP,
            width=slot,
            height=_OBJECTED_TOP + _OBJECTED_HEIGHT - _ACTS_TOP,
        )
    )
    boxes += _box("acts", bar.acts / acts_top, left, slot - gap, _ACTS_TOP + _ACTS_HEIGHT)
    floor = _OBJECTED_TOP + _OBJECTED_HEIGHT
    for name, _ in PARTS:
        share = getattr(bar, name) / objected_top
        boxes += _box(name, share, left, slot - gap, floor, height=_OBJECTED_HEIGHT)
        floor -= share * _OBJECTED_HEIGHT
    return element("g", boxes)


def _box(
    name: str,
    share: float,
    left: float,
    width: float,
    floor: float,
    *,
    height: float = _ACTS_HEIGHT,
) -> list[Markup]:
    if share == 0:
        return []
    # However little it is, it is seen.
    tall = max(1.0, share * height)
    return [element("rect", class_=name, x=left, y=floor - tall, width=width, height=tall)]


def _heading(words: str, top: float) -> Markup:
    return element("text", words, x=_LEFT, y=top - 12, class_="heading")


def _scale(ceiling: int, top: float, height: float) -> list[Markup]:
    marks = {0, ceiling} if ceiling == 1 else {0, ceiling // 2, ceiling}
    found = []
    for mark in sorted(marks):
        y = top + height * (1 - mark / ceiling)
        found.append(element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        found.append(element("text", mark, x=_LEFT - 8, y=y + 4, class_="mark"))
    return found


def _dates(drawn: Sequence[Bar], slot: float) -> list[Markup]:
    # As far apart as their words are wide.
    step = max(-(-len(drawn) // _LABELS_MAX), math.ceil(_LABEL_WIDTH / slot))
    return [
        element(
            "text",
            drawn[number].label[:10],
            x=_LEFT + number * slot,
            y=_HEIGHT - 8,
            class_="date",
        )
        for number in range(0, len(drawn), step)
        if _LEFT + number * slot < WIDTH - _LABEL_WIDTH
    ]


def _ceiling(highest: int) -> int:
    """Gives a round number that nothing exceeds and that can be halved."""
    power = 1
    while True:
        for factor in (1, 2, 4, 6, 8):
            if factor * power >= highest:
                return factor * power
        power *= 10


def _date(day: constitution_pb2.DayReport) -> str:
    moment: datetime = day.begin_time.ToDatetime(tzinfo=UTC)
    return moment.date().isoformat()
