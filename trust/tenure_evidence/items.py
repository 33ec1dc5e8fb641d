"""The items of an entry: what happened to a run, written by the coordinator and read by verifiers.

An item says one event, or several that follow one another in one run and differ in their task only:
these have `tasks` instead of `task`, and `seq` is the number of the first. So the tasks of a wide
run that are granted together cost one statement and one hash, however many they are. The format is
`docs/evidence-format.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tenure_evidence.canonical import quoted


class ItemInvalid(ValueError):  # noqa: N818 - a finding about an item
    """An item does not say which events it is about."""


def events_of(item: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The events that an item says, each as an item of its own would say it.

    Raises ItemInvalid for an item of several tasks that is not as the format wants it.
    """
    if "tasks" not in item:
        yield item
        return
    alike = dict(item)
    tasks, first = alike.pop("tasks"), item.get("seq")
    if "task" in item or type(tasks) is not list or len(tasks) < 2 or type(first) is not int:
        raise ItemInvalid("has tasks that it cannot have")
    for seq, task in enumerate(tasks, start=first):
        yield {**alike, "seq": seq, "task": task}


# By hand, for they are made tens of thousands of times a second; a test holds them against
# `canonical`. What is not quoted is a digest or a UUID: with a quotation mark in it, it would match
# no item that was ever signed. All that several items of an act have in common comes first.


def lease_head(
    *,
    at: int,
    attempt: int,
    agent: str,
    definition: str,
    constitution: str,
    handler: str,
    given: bytes,
) -> str:
    """How an item `task.leased` begins, up to its run; `tail` ends it.

    `at` is the time of the grant in microseconds, `handler` the task's kind. Digests are as they
    are written, only `given` is raw: see `digests.given_digest`.
    """
    return (
        f'{{"agent":{quoted(agent)},"at":{at},"attempt":{attempt},'
        f'"constitution":"{constitution}","definition":"{definition}",'
        f'"handler":{quoted(handler)},"input":"sha256:{given.hex()}","kind":"task.leased","run":"'
    )


def success_head(*, at: int, attempt: int, agent: str, result: bytes) -> str:
    """How an item `task.succeeded` without output begins, up to its run; `result` is raw."""
    return (
        f'{{"agent":{quoted(agent)},"at":{at},"attempt":{attempt},"kind":"task.succeeded",'
        f'"result":"sha256:{result.hex()}","run":"'
    )


def tail(run: str, seq: int, tasks: Sequence[str], term: int) -> str:
    """How items end: their run, the number of the first event, their tasks, the term.

    An empty key stands for the run: its items are about no task and have no term.
    """
    if len(tasks) == 1:
        if not tasks[0]:
            return f'{run}","seq":{seq}}}'
        return f'{run}","seq":{seq},"task":{quoted(tasks[0])},"term":{term}}}'
    keys = ",".join(map(quoted, tasks))
    return f'{run}","seq":{seq},"tasks":[{keys}],"term":{term}}}'


def lease_item(
    *,
    run: str,
    seq: int,
    at: int,
    tasks: Sequence[str],
    attempt: int,
    term: int,
    agent: str,
    definition: str,
    constitution: str,
    handler: str,
    given: bytes,
) -> bytes:
    """The item `task.leased`, made alike by coordinator and agent; see `lease_head` and `tail`.

    `seq` is the number in its run of the event of the first of the tasks.
    """
    head = lease_head(
        at=at,
        attempt=attempt,
        agent=agent,
        definition=definition,
        constitution=constitution,
        handler=handler,
        given=given,
    )
    return (head + tail(run, seq, tasks, term)).encode()
