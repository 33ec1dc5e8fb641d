"""Copies of a SQLite store, taken under load and torn as a power cut tears them.

A copy is taken while its coordinator is stopped, so that it is one instant of the disk. Whatever
was acknowledged before that instant must be in it, also when more of the log was being written. A
log that lost its end is no power cut but a disk that lied: what is left must be whole, or refused,
or, where a checkpoint had written pages that the log has no more, found by an audit.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import checker
from tests.chaos.history import Cancelled, Observation, Settled, Started, Watched
from tests.chaos.rules import evidence, kept, limits, lists, order, schedules, undoing, waits
from tests.chaos.site import Fronted
from tests.chaos.stored import querying, record_of, signatures

from tenure_server.audit import audit_store
from tenure_server.store.database import Store, open_store
from tenure_server.store.errors import StoreOpenError

_NAME = "tenure.db"
#: What must be true of any copy that opens.
_WHOLE = (
    kept.a_request_is_one_run,
    kept.one_result_per_term,
    limits.limits_hold,
    limits.keys_hold,
    limits.run_keys_hold,
    order.graphs_are_followed,
    lists.items_are_bounded,
    undoing.undone_in_reverse,
    waits.nothing_comes_early,
    schedules.each_time_fires_once,
    schedules.overlaps_are_kept,
    evidence.evidence_is_whole,
)


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy, and the moment before which everything acknowledged must be in it."""

    folder: Path
    taken: float
    how: str


def take(coordinator: Fronted, files: Path, folder: Path, chance: random.Random) -> Copy:
    """Copies the store of a running coordinator, and tears the copy in one of three ways."""
    folder.mkdir(parents=True)
    coordinator.pause()
    try:
        taken = time.monotonic()
        for name in (_NAME, f"{_NAME}-wal"):
            if (files / name).exists():
                shutil.copy(files / name, folder / name)
    finally:
        coordinator.go_on()
    how = chance.choice(["whole", "half-written", "cut"])
    log = folder / f"{_NAME}-wal"
    if how == "half-written":
        # The next frame was on its way when the power went.
        with log.open("ab") as file:
            file.write(chance.randbytes(chance.randrange(1, 8192)))
    elif how == "cut":
        os.truncate(log, chance.randrange(log.stat().st_size))
    return Copy(folder, taken, how)


def judge(
    copy: Copy, observations: list[Observation], slots: Mapping[str, int]
) -> Iterator[checker.Violation]:
    """Opens a copy as a coordinator does, and gives what is wrong with it."""
    store = f"sqlite://{copy.folder / _NAME}"
    rule = f"a copy that is {copy.how}"
    try:
        opened = open_store(store, holder="chaos", address="127.0.0.1:1")
        with closing(opened):
            found = _found(opened, store)
    except StoreOpenError as error:
        if copy.how != "cut":
            yield checker.Violation(rule, f"{copy.folder} was refused: {error}")
        return
    if found:
        if copy.how != "cut":
            told = "; ".join(found)
            yield checker.Violation(rule, f"{copy.folder} was opened, and its audit tells: {told}")
        return
    record = record_of(store, slots)
    before = [] if copy.how == "cut" else [*_before(observations, copy.taken)]
    for each in (kept.acknowledged_is_kept, *_WHOLE):
        for what in each(before, record):
            yield checker.Violation(rule, f"{copy.folder}: {what}")


def _found(opened: Store, url: str) -> list[str]:
    """What an audit finds, which reads no keys where it cannot trust the tables."""
    with opened.reading():
        if damage := opened.backend.damage():
            return [damage]
    with querying(url) as query:
        chain, _ = signatures(query)
    return [finding.sentence for finding in audit_store(opened, chain)]


def _before(observations: list[Observation], moment: float) -> Iterator[Observation]:
    for seen in observations:
        match seen:
            case Started(ended=at) | Cancelled(ended=at) | Watched(ended=at) | Settled(answered=at):
                if at < moment:
                    yield seen
            case _:
                pass
