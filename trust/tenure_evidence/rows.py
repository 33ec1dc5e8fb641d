"""What the rows of a coordinator's records mean, and how they repeat what the items say.

Both audits go by it: the offline one of a file, and the one of the server, for every store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tenure_evidence.canonical import digest_text

#: Kinds of events by their numbers in the execution log, from 1.
KINDS: Final = (
    *("run.started", "run.cancelling", "run.succeeded", "run.failed", "run.cancelled"),
    *("task.leased", "task.succeeded", "task.retrying", "task.failed", "task.upstream_failed"),
    *("task.cancelled", "task.lease_lost", "task.lease_returned", "task.checkpointed"),
    *("run.paused", "run.resumed", "run.reopened", "run.compensating", "run.closed"),
    *("run.moved", "run.signalled", "task.skipped", "task.activated", "task.reopened"),
    *("task.decided", "task.escalated", "task.repeated"),
)
#: States of a run that has ended, by their numbers, and the event with which it did.
RUN_ENDS: Final = {3: "run.succeeded", 4: "run.failed", 5: "run.cancelled", 8: "run.closed"}
#: Where a run can stand after an event, while it has not ended: states by their numbers.
RUN_STANDS: Final[Mapping[str, tuple[int, ...]]] = {
    "run.started": (1,),
    "run.cancelling": (2,),
    "run.paused": (6,),
    "run.resumed": (1, 7),
    "run.reopened": (1, 6),
    "run.compensating": (7,),
    "run.moved": (6,),
}
#: The events with which a task ends, and the column in which its run counts them.
TASK_ENDS: Final = {
    f"task.{how}": how for how in ("succeeded", "failed", "upstream_failed", "cancelled", "skipped")
}
#: What an item says of an event that the execution log holds as well.
REPEATED: Final = ("at", "kind", "task", "attempt", "term", "agent", "code", "text")


def kind_of(number: Any) -> str:
    """What an item calls the kind of an event that has this number in the execution log."""
    known = type(number) is int and 0 < number <= len(KINDS)
    return KINDS[number - 1] if known else f"of unknown kind {number!r}"


def differing(item: Mapping[str, Any], event: Sequence[Any]) -> str:
    """In which of `REPEATED` an item and the row of its event differ first; empty: in nothing.

    `event` has the columns at_us, kind, task_key, attempt, term, agent, code, message.
    """
    at, kind, task, attempt, term, agent, code, message = event
    text = digest_text(str(message).encode(errors="replace")) if message else ""
    told = (at, kind_of(kind), task, attempt, term, agent, code, text)
    for name, value in zip(REPEATED, told, strict=True):
        # What is empty or nought is left out of an item.
        if item.get(name, type(value)()) != value:
            return name
    return ""
