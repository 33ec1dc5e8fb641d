"""Figures: how they are judged, told and kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.results import Figure, at_least, at_most

from benchmarks import results


def test_a_figure_is_the_median_of_its_rounds() -> None:
    figure = results.median("fan-out", "throughput", [9_000, 12_000, 11_000], "tasks/s")
    assert figure.value == 11_000
    assert figure.rounds == (9_000, 12_000, 11_000)


def test_a_figure_without_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="throughput was never measured"):
        results.median("fan-out", "throughput", [], "tasks/s")


@pytest.mark.parametrize(
    ("target", "value", "ok"),
    [
        (at_least(10_000), 10_000, True),
        (at_least(10_000), 9_999.9, False),
        (at_most(60), 60, True),
        (at_most(60), 60.1, False),
        (at_most(0), 0, True),
        (None, 1, None),
    ],
)
def test_a_target_is_met_at_its_value_and_on_its_good_side(
    target: results.Target | None, value: float, ok: bool | None
) -> None:
    figure = Figure(scenario="s", metric="m", value=value, unit="", target=target)
    assert figure.ok is ok


def test_a_scenario_that_failed_stands_in_the_record_as_missed() -> None:
    figure = results.failed("restart")
    assert (figure.scenario, figure.metric, figure.ok) == ("restart", "completed", False)


@pytest.mark.parametrize(("part", "value"), [(0.0, 1), (0.5, 51), (0.99, 100), (1.0, 100)], ids=str)
def test_a_percentile_is_one_of_the_values(part: float, value: int) -> None:
    assert results.percentile(list(range(100, 0, -1)), part) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (60.0, "60"),
        (12_345.6, "12,346"),
        (152.44, "152.4"),
        (2.349, "2.35"),
        (0.0204, "0.0204"),
        (1_000_000, "1,000,000"),
    ],
)
def test_numbers_are_told_with_the_digits_that_mean_something(value: float, text: str) -> None:
    assert results.spelled(value) == text


def test_the_table_says_which_targets_were_met() -> None:
    figures = [
        results.median("fan-out", "throughput", [9_500, 9_000], "tasks/s", at_least(10_000)),
        results.median("fan-out", "coordinator CPU", [55], "us/task", at_most(60)),
        results.median("idle", "agent CPU", [0.2], "% of a core"),
    ]
    head, line, missed, met, silent = results.table(figures).splitlines()
    assert head.split() == ["scenario", "metric", "value", "unit", "target", "rounds"]
    assert set(line) == {"-"}
    assert missed.split()[2:] == ["9,250", "tasks/s", ">=", "10,000", "MISSED", "9,500", "9,000"]
    assert met.split()[3:] == ["55", "us/task", "<=", "60", "met"]
    assert silent.endswith("% of a core")


def test_figures_are_kept_as_a_list_of_objects(tmp_path: Path) -> None:
    file = tmp_path / "results" / "latest.json"
    figures = [
        results.median("fan-out", "throughput", [9_000, 12_000, 11_000], "tasks/s", at_least(1e4)),
        Figure(scenario="calibration before", metric="fsync", value=0.2, unit="ms"),
    ]
    results.write(figures, file)
    assert json.loads(file.read_text()) == [
        {
            "scenario": "fan-out",
            "metric": "throughput",
            "value": 11_000,
            "unit": "tasks/s",
            "target": 10_000,
            "ok": True,
            "rounds": [9_000, 12_000, 11_000],
        },
        {
            "scenario": "calibration before",
            "metric": "fsync",
            "value": 0.2,
            "unit": "ms",
            "target": None,
            "ok": None,
            "rounds": [],
        },
    ]
    assert [entry.name for entry in file.parent.iterdir()] == ["latest.json"]
