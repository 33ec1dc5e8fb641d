"""Figures as a picture: a bar a figure, with its rounds and its target, as SVG by hand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from html import escape
from pathlib import Path

from benchmarks.results import Figure, spelled

_WIDTH = 860
_LEFT = 330
_BAR_WIDTH = 300
_ROW = 26
_TOP = 44
_FONT = "font: 12px system-ui, sans-serif"

# One file for light and dark: the viewer's own preference decides.
_STYLE = f"""
text {{ {_FONT}; fill: #1f2328 }}
.title {{ font-weight: 600; font-size: 14px }}
.note {{ fill: #59636e }}
.ground {{ fill: #ffffff }}
.bar {{ fill: #4f8fd9 }}
.met {{ fill: #3a9a5c }}
.missed {{ fill: #d9634f }}
.span {{ stroke: #1f2328; stroke-width: 1 }}
.target {{ stroke: #1f2328; stroke-width: 2; stroke-dasharray: 3 2 }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #e6edf3 }}
.note {{ fill: #9198a1 }}
.ground {{ fill: #0d1117 }}
.span, .target {{ stroke: #e6edf3 }}
}}
"""


def draw(title: str, figures: Sequence[Figure]) -> str:
    """The picture of one scenario. Figures of the same unit share a scale."""
    most: dict[str, float] = defaultdict(float)
    for figure in figures:
        target = 0.0 if figure.target is None else figure.target.value
        most[figure.unit] = max(most[figure.unit], figure.value, target, *figure.rounds)
    height = _TOP + _ROW * len(figures) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="ground" width="{_WIDTH}" height="{height}"/>',
        f'<text class="title" x="16" y="26">{escape(title)}</text>',
    ]
    for place, figure in enumerate(figures):
        parts += _row(figure, _TOP + place * _ROW, most[figure.unit] or 1.0)
    note = "thin line: least to most of all rounds; dashed: target; bars of one unit share a scale"
    parts.append(f'<text class="note" x="16" y="{height - 10}">{note}</text>')
    return "\n".join([*parts, "</svg>\n"])


def write(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Writes a picture of each scenario into a folder. Raises OSError."""
    scenarios: dict[str, list[Figure]] = defaultdict(list)
    for figure in figures:
        scenarios[figure.scenario].append(figure)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, mine in scenarios.items():
        words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
        file = folder / f"{'-'.join(words)}.svg"
        file.write_text(draw(name, mine))
        files.append(file)
    return files


def _row(figure: Figure, top: int, most: float) -> list[str]:
    scale = _BAR_WIDTH / most
    middle = top + 9
    css = {None: "bar", True: "met", False: "missed"}[figure.ok]
    width = max(1.0, figure.value * scale)
    right = _LEFT + _BAR_WIDTH + 12
    told = f"{spelled(figure.value)} {figure.unit}".strip()
    target = "" if figure.target is None else f"target {figure.target}"
    parts = [
        f'<text x="{_LEFT - 10}" y="{middle + 4}" text-anchor="end">{escape(figure.metric)}</text>',
        f'<rect class="{css}" x="{_LEFT}" y="{top}" width="{width:.1f}" height="18" rx="2"/>',
        f'<text x="{right}" y="{middle + 4}">{escape(told)}'
        f'<tspan class="note" dx="8">{escape(target)}</tspan></text>',
    ]
    if len(figure.rounds) > 1:
        least, top_most = (_LEFT + edge(figure.rounds) * scale for edge in (min, max))
        parts.append(
            f'<line class="span" x1="{least:.1f}" x2="{top_most:.1f}" y1="{middle}" y2="{middle}"/>'
        )
    if figure.target is not None:
        at = _LEFT + figure.target.value * scale
        parts.append(
            f'<line class="target" x1="{at:.1f}" x2="{at:.1f}" y1="{top - 3}" y2="{top + 21}"/>'
        )
    return parts
