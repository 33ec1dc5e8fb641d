"""The items of evidence: one canonical statement for each event, see `docs/evidence-format.md`."""

from __future__ import annotations

from typing import Any

from tenure_evidence.canonical import canonical, digest_text, quoted
from tenure_server.core.lifecycle import EventKind

#: What an item calls an event: `task.lease_lost` for TASK_LEASE_LOST.
ITEM_KINDS = {kind: kind.name.lower().replace("_", ".", 1) for kind in EventKind}


def run_item(
    run: str, seq: int, at_us: int, kind: EventKind, message: str, started: dict[str, str]
) -> bytes:
    """The item of an event of a whole run. `started` is what else is said of its start."""
    item: dict[str, Any] = {"run": run, "seq": seq, "at": at_us, "kind": ITEM_KINDS[kind]}
    if message:
        item["text"] = digest_text(message.encode())
    return canonical(item | started)


def task_item(
    run: str,
    seq: int,
    at_us: int,
    kind: EventKind,
    task: str,
    attempt: int,
    term: int,
    agent: str,
    said: dict[str, str],
) -> bytes:
    """The item of an event of one task. `said` is what else there is to say of this kind."""
    item = {
        "agent": agent,
        "at": at_us,
        "attempt": attempt,
        "kind": ITEM_KINDS[kind],
        "run": run,
        "seq": seq,
        "task": task,
        "term": term,
    }
    return canonical(item | said)


def success_item(
    run: str, seq: int, at_us: int, task: str, attempt: int, term: int, agent: str, result: bytes
) -> bytes:
    """What `task_item` gives for a success without output: the item that is made most often."""
    return (
        f'{{"agent":{quoted(agent)},"at":{at_us},"attempt":{attempt},"kind":"task.succeeded",'
        f'"result":"sha256:{result.hex()}","run":"{run}","seq":{seq},"task":{quoted(task)},'
        f'"term":{term}}}'
    ).encode()
