"""Objections of the constitution on the screen: warnings, verdicts, the thirteen dimensions."""

from __future__ import annotations

from collections.abc import Iterable

import click

from tenure.v1 import verdict_pb2
from tenure_client import articles
from tenure_client.cli import plain
from tenure_constitution.laws import Coverage, Dimension
from tenure_evidence.shown import clean


def warn(objections: Iterable[verdict_pb2.Objection]) -> None:
    """Writes each objection on a line of stderr: what an article warns of stops nothing."""
    for objection in objections:
        click.echo(f"warning: {clean(articles.sentence(objection))}", err=True)


def denies(objections: Iterable[verdict_pb2.Objection]) -> bool:
    """Tells whether any objection stands in the way of the act."""
    return any(each.effect == verdict_pb2.EFFECT_DENY for each in objections)


def dimensions_line(assessed: Iterable[verdict_pb2.DimensionAssessment]) -> str:
    """Says on one line how the thirteen dimensions stand, naming those that are missing."""
    found = [(word_of(each), Coverage(each.coverage)) for each in assessed]
    if not found:
        return ""
    covered = sum(coverage is Coverage.COVERED for _, coverage in found)
    derived = sum(coverage is Coverage.DERIVED for _, coverage in found)
    missing = [name for name, coverage in found if coverage is Coverage.MISSING]
    text = f"{covered} covered, {derived} derived, {len(missing)} missing"
    return f"{text}: {', '.join(missing)}" if missing else text


def word_of(assessed: verdict_pb2.DimensionAssessment) -> str:
    """Gives the name of a dimension as files write it."""
    return Dimension(assessed.dimension).word


def result_word(number: int) -> str:
    """Gives what an act came out as, such as `ALLOW`."""
    return plain.word(verdict_pb2.VerdictResult.DESCRIPTOR, number)
