"""Tells the log what was committed: runs at info, trouble at warning, the rest at debug."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping

import structlog

from tenure_server.core.desks.desk import Desk
from tenure_server.core.evidence import Draft
from tenure_server.core.ledger.journal import Changes, Row
from tenure_server.core.ledger.lifecycle import EventKind

_RUN_LEVELS = {
    EventKind.RUN_STARTED: logging.INFO,
    EventKind.RUN_CANCELLING: logging.INFO,
    EventKind.RUN_SUCCEEDED: logging.INFO,
    EventKind.RUN_FAILED: logging.WARNING,
    EventKind.RUN_CANCELLED: logging.INFO,
    EventKind.RUN_PAUSED: logging.INFO,
    EventKind.RUN_RESUMED: logging.INFO,
    EventKind.RUN_REOPENED: logging.INFO,
    EventKind.RUN_COMPENSATING: logging.WARNING,
    EventKind.RUN_CLOSED: logging.WARNING,
    EventKind.RUN_MOVED: logging.INFO,
}
_TROUBLE = {
    EventKind.TASK_RETRYING: logging.WARNING,
    EventKind.TASK_FAILED: logging.WARNING,
    EventKind.TASK_LEASE_LOST: logging.WARNING,
    EventKind.TASK_LEASE_RETURNED: logging.INFO,
}
#: Events whose message is a handler's.
_SAID_BY_HANDLERS = {EventKind.TASK_RETRYING, EventKind.TASK_FAILED}
#: Levels by number of the event. Most events are of other kinds and cost one look-up here.
LEVELS: dict[int, int] = {int(kind): level for kind, level in (_RUN_LEVELS | _TROUBLE).items()}
SENTENCES = {int(kind): kind.name.lower().replace("_", " ") for kind in EventKind}

#: Level, sentence, and what it is about.
Line = tuple[int, str, dict[str, object]]

log = structlog.get_logger()


def lines(changes: Changes, desks: Mapping[str, Desk]) -> list[Line]:
    """Gives a line for each event that is worth one at the level that is set.

    To be asked while the desks still have the runs of the changes: by the time of the commit, some
    may have ended.
    """
    every = log.is_enabled_for(logging.DEBUG)
    found = []
    for row in changes.events:
        level = LEVELS.get(row[4], logging.DEBUG if every else 0)
        if level:
            found.append((level, SENTENCES[row[4]], _fields(row, changes, desks)))
    for draft in changes.drafts:
        # A refused call is told of where it is refused.
        if draft.act.objections and not draft.act.refusal:
            found += _denials(draft)
    return found


def _denials(draft: Draft) -> Iterator[Line]:
    for one in draft.act.objections_in(draft.tenant_id):
        if one.denies:
            fields: dict[str, object] = {"tenant": draft.tenant_id, "detail": one.sentence}
            yield logging.INFO, "the constitution denies", fields


def tell(told: Iterable[Line]) -> None:
    """Writes lines."""
    # Bound once: the lazy proxy would build a logger for each line.
    bound = log.bind()
    for level, sentence, fields in told:
        bound.log(level, sentence, **fields)


def _fields(row: Row, changes: Changes, desks: Mapping[str, Desk]) -> dict[str, object]:
    tenant_id, run_id, _, _, _, task_key, attempt, term, agent, code, message = row
    fields: dict[str, object] = {
        "tenant": tenant_id,
        "run_id": run_id,
        "correlation_id": _correlation(tenant_id, run_id, changes, desks),
    }
    if task_key:
        fields |= {"task_key": task_key, "attempt": attempt, "term": term, "agent": agent}
    if code:
        fields["code"] = code
    # What handlers say can hold tenants' secrets: that stays in the log of the run.
    if message and EventKind(row[4]) not in _SAID_BY_HANDLERS:
        fields["reason"] = message
    return fields


def _correlation(tenant_id: str, run_id: str, changes: Changes, desks: Mapping[str, Desk]) -> str:
    known = changes.correlations.get(run_id)
    if known is not None:
        return known
    desk = desks.get(tenant_id)
    run = None if desk is None else desk.runs.get(run_id)
    return "" if run is None else run.correlation_id
