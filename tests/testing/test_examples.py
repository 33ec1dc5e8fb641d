"""The examples do what they say, in the time of the test."""

from __future__ import annotations

import contextlib
import importlib.util
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest

from tenure_client import testing
from tenure_client.testing import Coordinator, Environment, Run

EXAMPLES = Path(__file__).parents[2] / "examples"


async def play(name: str, coordinator: Coordinator, folder: Path) -> list[Run]:
    spec = importlib.util.spec_from_file_location("play", EXAMPLES / "play.py")
    assert spec is not None
    assert spec.loader is not None
    stage = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stage)
    assert name in stage.NAMES
    agent = EXAMPLES / name / "agent.toml"
    async with Environment(agent=agent, coordinator=coordinator) as env:
        runs: list[Run] = await stage.scene_of(name)(env, folder, lambda line: None)
        return runs


async def test_documents_become_pages_but_for_the_one_that_is_no_text(
    tenure_coordinator: Coordinator, tmp_path: Path
) -> None:
    [run] = await play("documents", tenure_coordinator, tmp_path)
    assert run.state == "SUCCEEDED"
    states = {key: task.code or task.state for key, task in run.tasks.items() if "[" in key}
    done = "SUCCEEDED"
    assert states == {
        "convert[0]": done,
        "convert[1]": done,
        "convert[2]": done,
        "convert[3]": "NOT_TEXT",
    }
    assert run.result["words"] == 16
    index = (tmp_path / "site" / "index.html").read_text()
    assert index.count("<li>") == 3
    for page in ("apples", "pears", "plums"):
        assert f"{page}.html" in index
    assert "fall &amp; rot" in (tmp_path / "site" / "apples.html").read_text()


async def test_two_documents_that_are_no_text_are_one_too_many(
    tenure_coordinator: Coordinator, tmp_path: Path
) -> None:
    for number in range(3):
        (tmp_path / f"{number}.md").write_bytes(b"\xff" if number else b"good")
    folder = EXAMPLES / "documents"
    async with Environment(agent=folder / "agent.toml", coordinator=tenure_coordinator) as env:
        given = {"source": str(tmp_path), "target": str(tmp_path / "site")}
        run = await env.run(folder / "workflow.yaml", input=given)
    assert (run.state, run.task("index").state) == ("FAILED", "UPSTREAM_FAILED")


async def test_a_release_waits_for_consent_and_goes_back_without(
    tenure_coordinator: Coordinator, tmp_path: Path
) -> None:
    good, late = await play("release", tenure_coordinator, tmp_path)
    assert (good.state, good.took) == ("SUCCEEDED", timedelta(hours=21))
    assert (late.state, late.took) == ("FAILED", timedelta(days=2, hours=1))
    assert late.task("consent").code == "APPROVAL_EXPIRED"
    assert late.output("~on_failure") == ["one"]
    for machine in ("one", "two", "three"):
        assert (tmp_path / machine / "VERSION").read_text() == "version = 1.0\n"


async def test_a_release_does_not_go_on_from_a_machine_that_is_unwell(
    tenure_coordinator: Coordinator, tmp_path: Path
) -> None:
    unwell = testing.NonRetryable("UNWELL", "it smokes")
    agent = EXAMPLES / "release" / "agent.toml"
    async with Environment(
        agent=agent, handlers={"check-machines": unwell}, coordinator=tenure_coordinator
    ) as env:
        given = {"version": "1.0", "folder": str(tmp_path)}
        run = await env.run(EXAMPLES / "release" / "workflow.yaml", input=given)
    assert (run.state, run.took) == ("FAILED", timedelta(hours=1))
    assert not (tmp_path / "two").exists()


async def test_nights_and_the_week_before_are_in_the_table_once_each(
    tenure_coordinator: Coordinator, tmp_path: Path
) -> None:
    runs = await play("sales", tenure_coordinator, tmp_path)
    assert [run.state for run in runs] == ["SUCCEEDED"] * 10
    days = {run.result["day"]: run.result["total"] for run in runs}
    assert len(days) == 10
    with contextlib.closing(sqlite3.connect(tmp_path / "sales.db")) as database:
        sums = database.execute("SELECT day, sum(count * cents) FROM sales GROUP BY day").fetchall()
    assert dict(sums) == days


async def test_a_journey_that_cannot_be_paid_is_given_back_the_last_first(
    tenure_coordinator: Coordinator, tmp_path: Path
) -> None:
    good, dear = await play("saga", tenure_coordinator, tmp_path)
    assert (good.state, good.output("pay")) == ("SUCCEEDED", {"paid": 454})
    assert (dear.state, dear.task("pay").code) == ("FAILED", "CardRefused")
    acts = (tmp_path / "dear" / "acts.txt").read_text().splitlines()
    booked = [line.split()[1].partition("-")[0] for line in acts if line.startswith("booked")]
    back = [line.split()[-1].partition("-")[0] for line in acts if line.startswith("gave back")]
    assert (booked, back) == (["train", "hotel", "museum"], ["museum", "hotel", "train"])
    assert acts[-1] == "told ada@example.com that it failed (pay: 454 is more than 400)"


async def test_training_ends_when_it_is_good_enough_and_goes_on_from_its_checkpoint(
    tenure_coordinator: Coordinator, tmp_path: Path
) -> None:
    run, *epochs = await play("training", tenure_coordinator, tmp_path)
    assert run.state == "SUCCEEDED"
    assert run.result["error"] <= 0.004
    assert run.result["epochs"] == len(epochs) > 2
    assert all(epoch.result["error"] > 0.004 for epoch in epochs[:-1])
    assert [epoch.task("fit").attempts for epoch in epochs] == [1, 2] + [1] * (len(epochs) - 2)
    assert "TASK_CHECKPOINTED" in {event.kind for event in epochs[1].events}


async def test_training_gives_up_on_what_cannot_be_learnt(
    tenure_coordinator: Coordinator, tmp_path: Path
) -> None:
    folder = EXAMPLES / "training"
    async with Environment(
        folder / "epoch.yaml", agent=folder / "agent.toml", coordinator=tenure_coordinator
    ) as env:
        given = {"wanted_error": 0.0, "seed": 7}
        run = await env.run(folder / "workflow.yaml", input=given)
    assert (run.state, run.task("train").code) == ("FAILED", "REPETITIONS_EXHAUSTED")


@pytest.mark.parametrize("name", ["documents", "release", "sales", "saga", "training"])
def test_an_example_is_described(name: str) -> None:
    assert f"`{name}/`" in (EXAMPLES / "README.md").read_text()
