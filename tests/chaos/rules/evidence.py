"""Whether the evidence tells everything, once, and no answer told too much."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tests.chaos.history import Observations, Record, Shown


def evidence_is_whole(_: Observations, record: Record) -> Iterator[str]:
    """The logs verify, and everything that happened has exactly one piece of evidence."""
    yield from record.audit
    proven: dict[tuple[str, int], list[tuple[int, str, str, int]]] = defaultdict(list)
    for tenant, log in record.logs.items():
        for entry in log:
            for item in entry.items:
                stored = record.runs.get(item.run_id)
                if stored is None or stored.tenant != tenant:
                    yield f"entry {entry.index} of {tenant} tells of run {item.run_id}, not its own"
                said = (entry.index, item.kind, item.task, item.term)
                proven[item.run_id, item.sequence].append(said)
    for run_id, events in record.events.items():
        for event in events:
            sequence = event.sequence
            found = proven.pop((run_id, sequence), [])
            if len(found) != 1:
                yield f"event {sequence} of run {run_id} has {len(found)} pieces of evidence"
            elif found[0] != (event.entry, event.kind, event.task, event.term):
                yield f"event {sequence} of run {run_id} is not what entry {found[0][0]} says"
    for run_id, sequence in proven:
        yield f"there is evidence of event {sequence} of run {run_id}, which is not there"


def nothing_foreign_is_shown(observations: Observations, record: Record) -> Iterator[str]:
    """No answer names anything of a tenant that its caller does not act for."""
    for seen in observations:
        if not isinstance(seen, Shown):
            continue
        for what, name in seen.names:
            stored = record.runs.get(name)
            owner = stored.tenant if stored is not None else record.owners.get(name)
            if what == "TENANT":
                owner = name
            if owner is not None and owner not in seen.tenants:
                yield f"{seen.actor} of {', '.join(seen.tenants)} was shown {name} of {owner}"
