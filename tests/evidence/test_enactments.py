"""A constitution that is kept is one that an entry put into force."""

from __future__ import annotations

import pytest

from tenure_evidence.canonical import digest_text
from tenure_evidence.enactments import Enactment, enactment_of, problems

OLD, NEW = b'{"articles":[]}', b"{}"
ROWS = [(1, digest_text(OLD), OLD), (2, digest_text(NEW), NEW)]
ENACTED = [Enactment(3, digest_text(OLD), "1"), Enactment(8, digest_text(NEW), "2")]


def test_constitutions_as_they_were_put_into_force_are_good() -> None:
    assert list(problems(ROWS, ENACTED)) == []
    assert list(problems([ROWS[0]], [Enactment(0, digest_text(OLD), "")])) == []


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ((2, digest_text(NEW), b"[]"), {8}),
        ((2, "sha256:00", b"{}"), {8}),
        ((3, digest_text(NEW), NEW), {None, 8}),
    ],
)
def test_a_changed_constitution_is_named_by_its_entry(
    row: tuple[int, str, bytes], named: set[int | None]
) -> None:
    assert {index for index, _ in problems([ROWS[0], row], ENACTED)} == named


def test_a_missing_constitution_is_named_by_its_entry() -> None:
    assert [index for index, _ in problems([ROWS[1]], ENACTED)] == [3]


def test_an_entry_that_was_refused_put_nothing_into_force() -> None:
    entry = {"kind": "constitution.set", "subject": {"constitution": "sha256:1", "version": "4"}}
    assert enactment_of(7, entry) == Enactment(7, "sha256:1", "4")
    assert enactment_of(7, {**entry, "refusal": "DENIED"}) is None
    assert enactment_of(7, {**entry, "kind": "run.start"}) is None
