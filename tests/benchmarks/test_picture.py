"""Figures as a picture: well-formed, with bars to scale and a line at the target."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

from benchmarks.results import Figure, at_least, at_most

from benchmarks import picture

SVG = "{http://www.w3.org/2000/svg}"
FIGURES = [
    Figure(scenario="s & t", metric="fast <1>", value=100, unit="x", rounds=(50, 100, 200)),
    Figure(scenario="s & t", metric="met", value=50, unit="x", target=at_least(25)),
    Figure(scenario="s & t", metric="missed", value=3, unit="ms", target=at_most(1)),
    Figure(scenario="s & t", metric="nothing", value=0, unit="none"),
]


def bars(root: ET.Element) -> dict[str, float]:
    """Widths of the bars by their class."""
    found = [(rect.get("class", ""), rect) for rect in root.iter(f"{SVG}rect")]
    return {name: float(rect.get("width", "")) for name, rect in found if name != "ground"}


def test_bars_of_one_unit_share_a_scale_and_targets_have_a_line() -> None:
    root = ET.fromstring(picture.draw("s & t", FIGURES[:3]))
    widths = bars(root)
    assert widths["bar"] == 2 * widths["met"]
    assert widths["missed"] > widths["bar"], "another unit has another scale"
    lines = [line.get("class") for line in root.iter(f"{SVG}line")]
    assert (lines.count("target"), lines.count("span")) == (2, 1)


def test_a_picture_tells_every_metric_and_follows_light_and_dark() -> None:
    text = picture.draw("s & t", FIGURES)
    words = "".join(ET.fromstring(text).itertext())
    assert all(figure.metric in words for figure in FIGURES)
    assert "prefers-color-scheme: dark" in text


def test_each_scenario_gets_a_file_of_its_own(tmp_path: Path) -> None:
    other = Figure(scenario="other", metric="m", value=1, unit="")
    files = picture.write([*FIGURES, other], tmp_path / "new")
    assert [file.name for file in files] == ["s-t.svg", "other.svg"]
    assert all(ET.parse(file) for file in files)
