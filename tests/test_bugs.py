"""Each bug of `docs/found-bugs.md` has a patch that brings it back, and the patch still fits."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from tests import reproduce

TABLE = (reproduce.ROOT / "docs" / "found-bugs.md").read_text()


@pytest.mark.parametrize("name", reproduce.names())
def test_a_mend_can_be_taken_back(name: str, tmp_path: Path) -> None:
    """Whether the tests then fail is tried by `make reproduce`: it takes minutes."""
    this = reproduce.bug(name)
    files = [word.partition("::")[0] for word in this.shown_by if word.startswith("tests/")]
    assert files
    assert all((reproduce.ROOT / file).exists() for file in files)
    if shutil.which("git") is None:
        pytest.skip("git applies the patches")
    touched = re.findall(r"^--- a/(.+)$", this.patch.read_text(), re.MULTILINE)
    for file in touched:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(reproduce.ROOT / file, tmp_path / file)
    reproduce.take_back(this, tmp_path, "--check")


def test_the_table_names_each_of_them_once() -> None:
    named = re.findall(r"`python -m tests\.reproduce ([a-z0-9-]+)`", TABLE)
    assert sorted(named) == reproduce.names()


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        pytest.param("What it does.\n\n--- a/x\n", "no line", id="without the tests that show it"),
        pytest.param(None, "no such bug", id="that is not there"),
    ],
)
def test_a_patch_is_refused(
    head: str | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "BUGS", tmp_path)
    if head is not None:
        (tmp_path / "one.patch").write_text(head)
    with pytest.raises(ValueError, match=reason):
        reproduce.bug("one")
