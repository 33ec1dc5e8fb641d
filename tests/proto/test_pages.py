"""What the pages say is there: reasons, tests, files, flags."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tenure.v1 import errors_pb2
from tenure_agent import config
from tenure_server.rpc import status

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("[a-z]*/README.md")])
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def read(name: str) -> str:
    """The text of a file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_pages_are_found() -> None:
    """There are pages to look at."""
    assert {page.name for page in PAGES} >= {"README.md", "errors.md", "architecture.md"}


def test_every_reason_is_explained_with_its_status() -> None:
    """docs/errors.md has each reason of the contract, with the status that the server gives it."""
    rows = dict(
        re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|", read("docs/errors.md"), re.MULTILINE)
    )
    expected = {
        errors_pb2.Reason.Name(row.reason).removeprefix("REASON_"): row.code.name
        for row in status.TABLE.values()
    }
    assert rows == expected


def test_the_tests_that_hold_promises_exist() -> None:
    """Each test that docs/architecture.md names is in the tree."""
    named = set(re.findall(r"`(test_\w+)`", read("docs/architecture.md")))
    assert len(named) > 15
    code = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/test_*.py"))
    assert {name for name in named if f"def {name}(" not in code} == set()


@every_page
def test_links_lead_to_files(page: Path) -> None:
    """A link to a file of the repository finds it."""
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@every_page
def test_named_paths_exist(page: Path) -> None:
    """A path in code letters that begins with one of our folders is there."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:examples|docs|deploy|protos|server|agent|tests)/[\w./-]+)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("name", ["README.md", "deploy/agent.toml"])
def test_the_agents_file_that_is_shown_is_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The TOML file of the reference, and the one for deployment, are read without complaint."""
    text = read(name)
    if name == "README.md":
        blocks = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        (text,) = [block for block in blocks if "[coordinator]" in block]
    text = re.sub(r'key_file = ".*?"', 'key_env = "TENURE_TEST_KEY"', text)
    monkeypatch.setenv("TENURE_TEST_KEY", "tnr_" + "k" * 43)
    path = tmp_path / "agent.toml"
    path.write_text(text, encoding="utf-8")
    assert config.load(path).slots == 8
