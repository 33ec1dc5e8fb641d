"""Moments as people give them to commands: a date, a time, or so long ago."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from tenure_client import duration

HELP = "A date or time such as 2026-07-14 or 2026-07-14T09:30+02:00, or so long ago: 7d, 12h."


def read(option: str, text: str, *, now: datetime) -> datetime:
    """Reads a moment; without an offset it is UTC. Raises click.UsageError."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except ValueError:
        pass  # not a date: then it is a span, or wrong
    except OverflowError as error:
        raise click.UsageError(f"{option}: is no time that is known here: {text}") from error
    try:
        return now - timedelta(seconds=duration.seconds_of(duration.parse(text)))
    except (duration.DurationError, OverflowError) as error:
        reason = f"must be a date, a time, or a span such as 7d, is {text!r}"
        raise click.UsageError(f"{option}: {reason}") from error
