"""Random workflows with all features under random acts: the desk does what the reference does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.model.choices import Choices, Pages, shrunk
from tests.model.story import Library, library, tell, tell_twice

from tenure_server.core.desks.desk import Desk
from tenure_server.core.runs import triggers
from tenure_server.core.runs.triggers import Turn

#: A gate says the same each time. TENURE_MODEL_SEED tells other stories, `make model` fresh ones.
SEED = os.environ.get("TENURE_MODEL_SEED", "1")
STEPS = 2000


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Library]:
    """A store for stories."""
    with library(tmp_path) as opened:
        yield opened


@pytest.mark.timeout(300)
def test_a_desk_does_what_the_reference_does() -> None:
    """In a process of its own, so that a seed tells the same there and at the prompt."""
    words = ["-m", "tests.model", "--steps", str(STEPS), "--seed", SEED]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_seed_is_one_story(shelf: Library) -> None:
    first, second = tell(shelf, 3), tell(shelf, 3)
    assert first.wrong == second.wrong == ""
    assert (first.pages, first.lines, first.states) == (second.pages, second.lines, second.states)


def test_a_limit_that_is_not_kept_is_found(shelf: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Desk, "has_room", property(lambda desk: True))
    assert any("the tenant's limit" in tell(shelf, seed).wrong for seed in range(40))


def test_a_turn_that_comes_too_early_is_found(
    shelf: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = triggers.turn
    early = lambda *args: Turn.COME if turn(*args) is Turn.SKIP else turn(*args)  # noqa: E731
    monkeypatch.setattr("tenure_server.core.runs.live.turn", early)
    assert any(tell(shelf, seed).wrong for seed in range(40))


def test_memory_that_does_not_come_back_is_found(
    shelf: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenure_server.core.progress.waits.Waits.restore", lambda *args: None)
    found = (tell_twice(shelf, seed).wrong for seed in range(60))
    assert any(found)


def test_what_is_wrong_is_made_smaller() -> None:
    def fails(pages: Pages) -> Pages | None:
        choices = Choices(None, pages)
        drawn = []
        while choices.turn_page():
            drawn.append(choices.below(100))
        return choices.pages if sum(one > 50 for one in drawn) >= 2 else None

    pages = [[number] for number in (3, 70, 4, 99, 12, 80)]
    # The first page says what there is, and stays.
    assert shrunk(pages, fails, 500) == [[], [51], [51]]
