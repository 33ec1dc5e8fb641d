"""Entries of the log for people: rows, lines, and what stands in one of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from tenure.v1 import evidence_pb2
from tenure_client.cli import output
from tenure_evidence import canonical
from tenure_evidence.items import events_of
from tenure_evidence.shown import one_line

#: The members of an entry in the order in which people want them.
_MEMBERS = (
    *("log", "index", "at", "took", "kind", "method", "principal", "roles", "correlation"),
    *("term", "subject", "verdict", "refusal", "articles", "definition", "constitution"),
    *("request", "items"),
)
_EVENTS_SHOWN = 50
_TITLES = ("INDEX#", "TIME", "KIND", "PRINCIPAL", "VERDICT", "ITEMS#", "ABOUT")


def said_by(entry: evidence_pb2.EvidenceEntry) -> dict[str, Any]:
    """What an entry says. One that cannot be read says its number only."""
    try:
        return canonical.read(entry.entry)
    except canonical.NotCanonical:
        return {"index": entry.index, "kind": "unreadable"}


def item_value(item: bytes) -> dict[str, Any]:
    """What an item says."""
    try:
        return canonical.read(item)
    except canonical.NotCanonical:
        return {"kind": "unreadable"}


def show_entries(entries: Sequence[evidence_pb2.EvidenceEntry], *, json: bool) -> None:
    """Writes a list of entries."""
    if json:
        output.document([said_by(entry) for entry in entries])
        return
    output.table(_TITLES, (_row(said_by(entry)) for entry in entries), empty="no entries")


def line(entry: evidence_pb2.EvidenceEntry) -> str:
    """An entry on one line: number, time, kind, principal, verdict, what it is about."""
    index, at, kind, principal, verdict, items, about = _row(said_by(entry))
    counted = "" if items is None else f"{items} item{'' if items == 1 else 's'}"
    parts = (f"{index:>6}", at, f"{kind:<16}", principal, verdict, counted, about)
    return one_line("  ".join(str(part) for part in parts if part))


def show_entry(value: dict[str, Any], items: Sequence[dict[str, Any]], proven: str) -> None:
    """Writes one entry with its items."""
    told = {**value, "at": time_text(value.get("at"))}
    if "took" in told:
        told["took"] = f"{told['took'] / 1000:.3f} ms"
    told["roles"] = ", ".join(map(str, value.get("roles", ())))
    told["subject"] = output.words(value.get("subject", {}))
    told["articles"] = "; ".join(map(_sentence, value.get("articles", ())))
    count = value.get("items", {}).get("count", 0)
    told["items"] = f"{count}, root {value['items']['root']}" if count else ""
    output.details([*((name, told.get(name)) for name in _MEMBERS), ("proof", proven)])
    events = [event for item in items for event in events_of(item)]
    if events:
        click.echo()
        names = ("run", "seq", "kind", "task", "attempt", "agent", "code")
        rows = ([event.get(name) for name in names] for event in events[:_EVENTS_SHOWN])
        titles = ("RUN", "SEQ#", "EVENT", "TASK", "ATTEMPT#", "AGENT", "CODE")
        output.table(titles, rows, empty="")
    if len(events) > _EVENTS_SHOWN:
        click.echo(f"and {len(events) - _EVENTS_SHOWN} more; --json shows them all")


def time_text(at: Any) -> str:
    """A time of the log for people, in their own time zone; `at` in microseconds."""
    if type(at) is not int:
        return "-"
    moment = datetime.fromtimestamp(at // 1_000_000, UTC).astimezone()
    return f"{moment.strftime('%Y-%m-%d %H:%M:%S')}.{at // 1000 % 1000:03d}"


def _sentence(article: dict[str, Any]) -> str:
    """An article's objection as people are told it; what is no such thing, as it is."""
    if not {"id", "law", "perspective", "effect", "message"} <= article.keys():
        return output.words(article)
    side = str(article["perspective"]).replace("_", " ")
    verb = "denies" if article["effect"] == "deny" else "warns"
    problem = article.get("problem")
    cause = f" (it could not be evaluated: {problem})" if problem else ""
    name = f"article {article['id']} (law of {article['law']}, {side})"
    return f"{name} {verb}: {article['message']}{cause}"


def _row(value: dict[str, Any]) -> tuple[Any, ...]:
    items = value.get("items")
    return (
        value.get("index"),
        time_text(value.get("at")),
        value.get("kind"),
        value.get("principal") or "-",
        _verdict(value),
        items.get("count") if isinstance(items, dict) else None,
        _about(value),
    )


def _verdict(value: dict[str, Any]) -> str:
    refusal = value.get("refusal")
    return f"refused: {refusal}" if refusal else str(value.get("verdict", "-"))


def _about(value: dict[str, Any]) -> str:
    subject, articles = value.get("subject"), value.get("articles")
    parts = [output.words(subject)] if isinstance(subject, dict) else []
    if isinstance(articles, list):
        parts += [f"article {article.get('id')}" for article in articles]
    return ", ".join(part for part in parts if part)
