"""docs/semantics.md is whole: each feature states every condition, and each row names its tests.

Tests are looked for in the syntax of their files; nothing is run. All other documents may name
tests, too, and may name none that is not there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from tests.server.feature_table import FEATURES

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "semantics.md"
CONDITIONS = frozenset({"retry", "cancel", "pause", "restart", "loss"})
HEADER = ["what", "when", "what holds", "test"]

_NAMED = re.compile(r"`(tests/[\w/.]+\.py)::(test_\w+)(?:\[([^`\]]+)\])?`")
_PLAYED = re.compile(r"`played\[([^`\]]+)\]`")


@dataclass(frozen=True)
class Row:
    """A row of the document."""

    line: int
    feature: str
    conditions: tuple[str, ...]
    holds: str
    tests: str


def cells(line: str) -> list[str]:
    """The cells of a line of a table; none of another line."""
    return [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []


def rows() -> Iterator[Row]:
    """The rows of all tables of features."""
    inside, feature = False, ""
    for number, line in enumerate(DOCUMENT.read_text().splitlines(), 1):
        found = cells(line)
        if not found or found == HEADER:
            inside, feature = bool(found), ""
        elif inside and set(line) != set("| -"):
            assert len(found) == len(HEADER), f"line {number} has {len(found)} cells"
            feature = found[0] or feature
            yield Row(number, feature, tuple(found[1].split(", ")), found[2], found[3])


def played() -> dict[str, str]:
    """What the document says that it plays, by condition."""
    lines = [cells(line) for line in DOCUMENT.read_text().splitlines()]
    [begin] = [number for number, found in enumerate(lines) if found and found[0] == "played"]
    return {found[0]: " ".join(found[1:]) for found in lines[begin + 2 : begin + 7]}


ROWS = list(rows())
PLAYED = played()


@cache
def tree_of(path: str) -> ast.Module:
    """The syntax of a file."""
    return ast.parse((ROOT / path).read_text())


@cache
def functions_of(path: str) -> frozenset[str]:
    """The names of all functions in a file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree_of(path)) if isinstance(node, kinds))


@cache
def words_of(path: str) -> frozenset[str]:
    """What a case of a test may be called: by texts and names in its file, and in the table."""
    found = set[str]()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr.lower())
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests.server."):
            other = f"{(node.module or '').replace('.', '/')}.py"
            if other == "tests/server/feature_table.py":
                found |= words_of(other)
    return frozenset(found)


def problem_of(path: str, name: str, case: str | None) -> str | None:
    """Why a test that is named is none, or None."""
    if not (ROOT / path).is_file():
        return f"there is no {path}"
    if name not in functions_of(path):
        return f"{path} has no {name}"
    if case and case not in words_of(path) and not words_of(path).issuperset(case.split("-")):
        return f"{path} knows no case {case}"
    return None


def test_every_row_names_tests_that_are_there() -> None:
    """At least one; and what is played is a feature of the table."""
    names = {feature.name for feature in FEATURES}
    problems = []
    for row in ROWS:
        named, shown = _NAMED.findall(row.tests), _PLAYED.findall(row.tests)
        if not named and not shown:
            problems.append(f"line {row.line}: no test")
        if row.tests.count("`") != 2 * (len(named) + len(shown)):
            problems.append(f"line {row.line}: something that is no test")
        problems += [f"line {row.line}: {name} is not played" for name in set(shown) - names]
        for path, name, case in named:
            if problem := problem_of(path, name, case):
                problems.append(f"line {row.line}: {problem}")
    assert problems == []


def test_every_feature_states_every_condition() -> None:
    """What holds always, and under each of the five."""
    stated: dict[str, set[str]] = {}
    for row in ROWS:
        assert row.holds, f"line {row.line}: nothing holds"
        stated.setdefault(row.feature, set()).update(row.conditions)
    assert len(stated) > 50
    wanted = CONDITIONS | {"always"}
    assert {name: found ^ wanted for name, found in stated.items() if found != wanted} == {}


def test_what_is_played_is_played_under_every_condition() -> None:
    """The table that explains the word has them all, and each feature that is played is told of."""
    assert PLAYED.keys() == CONDITIONS
    for condition, tests in PLAYED.items():
        named = _NAMED.findall(tests)
        assert {path for path, _, _ in named} == {
            "tests/server/core/test_features.py",
            "tests/server/engine/test_features.py",
        }, condition
        assert [problem for one in named if (problem := problem_of(*one))] == []
    told: dict[str, set[str]] = {}
    for row in ROWS:
        for name in _PLAYED.findall(row.tests):
            told.setdefault(name, set()).update(row.conditions)
    assert told.keys() == {feature.name for feature in FEATURES}


DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_names_a_test_that_is_not_there(document: Path) -> None:
    """By its name alone, or with its file; code that is shown is not looked at."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"\btest_\w+", text)) <= all_names()


@cache
def all_names() -> frozenset[str]:
    """The names of all tests, and of the files that hold them."""
    found = set[str]()
    for file in (ROOT / "tests").rglob("test_*.py"):
        found |= {file.stem, *re.findall(r"^ *(?:async )?def (test_\w+)", file.read_text(), re.M)}
    return frozenset(found)
