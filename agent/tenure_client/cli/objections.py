"""Objections of the constitution on the screen: warnings, verdicts, the thirteen dimensions."""

from __future__ import annotations

from collections.abc import Iterable

import click

from tenure.v1 import verdict_pb2
from tenure_client import constitution
from tenure_client.cli import output, plain
from tenure_constitution.laws import Coverage, Dimension


def warn(objections: Iterable[verdict_pb2.Objection]) -> None:
    """Writes each objection on a line of stderr: what an article warns of stops nothing."""
    for objection in objections:
        click.echo(f"warning: {output.clean(constitution.sentence(objection))}", err=True)


def denies(objections: Iterable[verdict_pb2.Objection]) -> bool:
    """Tells whether any objection stands in the way of the act."""
    return any(each.effect == verdict_pb2.EFFECT_DENY for each in objections)


def dimensions_line(assessed: Iterable[verdict_pb2.DimensionAssessment]) -> str:
    """Says on one line how the thirteen dimensions stand, naming those that are missing."""
    found = list(assessed)
    if not found:
        return ""
    covered = sum(each.coverage == Coverage.COVERED for each in found)
    derived = sum(each.coverage == Coverage.DERIVED for each in found)
    missing = [word_of(each) for each in found if each.coverage == Coverage.MISSING]
    text = f"{covered} covered, {derived} derived, {len(missing)} missing"
    return f"{text}: {', '.join(missing)}" if missing else text


def word_of(assessed: verdict_pb2.DimensionAssessment) -> str:
    """Gives the name of a dimension as files write it."""
    return Dimension(assessed.dimension).word


def result_word(number: int) -> str:
    """Gives what an act came out as, such as `ALLOW`."""
    return plain.word(verdict_pb2.VerdictResult.DESCRIPTOR, number)
