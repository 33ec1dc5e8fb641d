"""The engine in simulated time, by seed: many steps, one course, and faults that are found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.simulation.story import tell

from tenure_server.core.desks.desk import Desk
from tenure_server.core.progress.expansion import Expansion
from tenure_server.core.progress.waits import Signals
from tenure_server.engine.commits import Batch, Commits

#: TENURE_SIMULATION_SEED tells other stories.
SEED = os.environ.get("TENURE_SIMULATION_SEED", "1")
STEPS = 8_000


@pytest.mark.timeout(300)
def test_many_steps_keep_every_promise() -> None:
    """In a process of its own, so that a seed tells the same there and at the prompt."""
    words = ["-m", "tests.simulation", "--steps", str(STEPS), "--seed", SEED]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("seed", [7, 8])
def test_one_seed_is_one_story(seed: int, tmp_path: Path) -> None:
    stories = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        stories.append(tell(seed, 600, folder))
    assert stories[0] == stories[1]
    assert stories[0].wrong == ()


def test_a_limit_that_is_not_kept_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Desk, "has_room", property(lambda desk: True))
    assert "against a limit" in " ".join(tell(2, 2000, tmp_path).wrong)


def test_what_is_not_read_back_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Signals, "restore", lambda *_: None)
    found = (one for seed in range(1, 20, 2) for one in _told(tmp_path, seed))
    assert any("read back, signals of" in one for one in found)


def test_a_fault_that_the_engine_hides_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It throws its memory away and goes on, and nobody would be the wiser."""

    def broken(*_: object) -> None:
        raise ValueError("this is a bug")

    monkeypatch.setattr(Expansion, "part_ended", broken)
    found = (one for seed in range(1, 20, 2) for one in _told(tmp_path, seed))
    assert any("this is a bug" in one for one in found)


def test_an_answer_before_its_commit_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is acknowledged while it is still being written is lost in a crash."""
    flush = Commits._flush

    def hasty(commits: Commits) -> None:
        seal = commits._seal

        def sealed() -> Batch:
            batch = seal()
            for effect in batch.effects:
                effect()
            batch.effects.clear()
            return batch

        commits._seal = sealed
        try:
            flush(commits)
        finally:
            commits._seal = seal

    monkeypatch.setattr(Commits, "_flush", hasty)
    found = (one for seed in range(2, 7) for one in _told(tmp_path, seed, steps=1000))
    assert any("acknowledged_is_kept" in one for one in found)


def _told(folder: Path, seed: int, *, steps: int = 3000) -> tuple[str, ...]:
    place = folder / str(seed)
    place.mkdir()
    return tell(seed, steps, place).wrong
