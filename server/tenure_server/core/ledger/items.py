"""The items of evidence: the canonical statements about some events, see `docs/evidence-format.md`.

They are made of the rows of the execution log and of what these do not hold, all of an act at once
and beside the loop. Events that follow one another and differ in their task only share an item.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tenure_evidence.canonical import canonical
from tenure_evidence.items import lease_head, success_head, tail
from tenure_server.core.ledger.lifecycle import EventKind

#: What an item calls an event: `task.lease_lost` for TASK_LEASE_LOST.
ITEM_KINDS = {kind: kind.name.lower().replace("_", ".", 1) for kind in EventKind}

#: What an item says and the row of its event does not. Of a lease: the digests of the definition
#: and of the constitution, the task's kind, and the raw digest of what the agent is given. Of a
#: success without output: the raw digest of the result. Of everything else: members of the item.
Said = tuple[str, str, str, bytes] | bytes | dict[str, str]

Row = tuple[Any, ...]
_KINDS = {int(kind): name for kind, name in ITEM_KINDS.items()}


@dataclass(slots=True)
class Items:
    """The items of some events, in order."""

    #: The canonical bytes of each.
    written: list[bytes] = field(default_factory=list)
    #: The same in two parts: what some items one after the other begin with, and the rest of each.
    parts: list[tuple[bytes, list[bytes]]] = field(default_factory=list)
    #: The tasks that each is about, one for each of its events; an empty key stands for the run.
    tasks: list[list[str]] = field(default_factory=list)


#: Of an act by which nothing happened.
NO_ITEMS = Items()


def items_of(rows: Iterable[Row], said: Iterable[Said]) -> Items:
    """Writes the items of the events of one act in one log.

    `rows` have the columns of `journal.EVENT_COLUMNS`, `said` what goes with each.
    """
    items = Items()
    written, all_tasks = items.written, items.tasks
    head, head_of, rests = b"", None, list[bytes]()
    for row, words, tasks in _alike(rows, said):
        _, run_id, seq, at_us, kind, _, attempt, term, agent, _, _ = row
        alike = at_us, kind, attempt, agent, words
        if alike != head_of:
            head, head_of, rests = _head(row, words), alike, []
            items.parts.append((head, rests))
        rest = tail(run_id, seq, tasks, term).encode() if head else _item(row, words, tasks)
        written.append(head + rest)
        rests.append(rest)
        all_tasks.append(tasks)
    return items


def _alike(rows: Iterable[Row], said: Iterable[Said]) -> list[tuple[Row, Said, list[str]]]:
    """Takes events together that differ in their task only and follow one another in a run.

    Gives for each the row of the first, what goes with it, and the tasks.
    """
    found: list[tuple[Row, Said, list[str]]] = []
    run_id, following, tasks = "", 0, [""]
    first: Row = ()
    before: Said = {}
    for row, words in zip(rows, said, strict=True):
        if (
            row[1] == run_id
            and row[2] == following
            and words == before
            and row[5]
            and row[6:] == first[6:]
            and row[3:5] == first[3:5]
        ):
            tasks.append(row[5])
            following += 1
            continue
        first, before, tasks = row, words, [row[5]]
        run_id, following = row[1], row[2] + 1
        found.append((row, words, tasks))
    return found


def _head(row: Row, words: Said) -> bytes:
    """How the item of an event begins, up to its run; empty where more than `tail` follows it."""
    _, _, _, at_us, kind, task, attempt, _, agent, _, _ = row
    if isinstance(words, dict):
        said: dict[str, Any] = {"at": at_us, "kind": _KINDS[kind], **words}
        if task:
            said |= {"agent": agent, "attempt": attempt}
        return canonical(said)[:-1] + b',"run":"' if max(said) < "run" else b""
    if isinstance(words, bytes):
        return success_head(at=at_us, attempt=attempt, agent=agent, result=words).encode()
    definition, constitution, handler, given = words
    return lease_head(
        at=at_us,
        attempt=attempt,
        agent=agent,
        definition=definition,
        constitution=constitution,
        handler=handler,
        given=given,
    ).encode()


def _item(row: Row, words: Any, tasks: list[str]) -> bytes:
    """An item that is not made in two parts."""
    _, run_id, seq, at_us, kind, _, attempt, term, agent, _, _ = row
    item: dict[str, Any] = {"run": run_id, "seq": seq, "at": at_us, "kind": _KINDS[kind]}
    if tasks[0]:
        item |= {"agent": agent, "attempt": attempt, "term": term}
        item |= {"task": tasks[0]} if len(tasks) == 1 else {"tasks": tasks}
    return canonical(item | words)
