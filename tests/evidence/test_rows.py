"""How the row of an event and the item that says it are held against each other."""

from __future__ import annotations

from typing import Any

import pytest

from tenure_evidence import rows
from tenure_evidence.canonical import digest_text

ITEM: dict[str, Any] = {
    "run": "r",
    "seq": 3,
    "at": 5,
    "kind": "task.failed",
    "task": "a",
    "attempt": 1,
    "term": 2,
    "agent": "host",
    "code": "BROKEN",
    "text": digest_text(b"it broke"),
}
EVENT = [5, 9, "a", 1, 2, "host", "BROKEN", "it broke"]


def test_a_row_that_repeats_its_item_differs_in_nothing() -> None:
    assert rows.differing(ITEM, EVENT) == ""
    started = {"run": "r", "seq": 1, "at": 5, "kind": "run.started"}
    assert rows.differing(started, [5, 1, "", 0, 0, "", "", ""]) == ""


@pytest.mark.parametrize(("place", "name"), list(enumerate(rows.REPEATED)))
@pytest.mark.parametrize("other", [7, "x", None])
def test_whatever_was_changed_is_named(place: int, name: str, other: object) -> None:
    event: list[Any] = [*EVENT]
    event[place] = other
    assert rows.differing(ITEM, event) == name


@pytest.mark.parametrize("number", [0, len(rows.KINDS) + 1, -1, "1", None, True])
def test_a_number_that_is_no_kind_is_called_so(number: object) -> None:
    assert rows.kind_of(number) == f"of unknown kind {number!r}"
    assert rows.kind_of(1) == "run.started"
