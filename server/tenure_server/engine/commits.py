"""Group commit: one writer thread, one transaction at a time, everything that is due in it.

The loop applies commands in memory and asks for a flush. A flush seals the journal and hands it to
the writer; what arrives meanwhile waits for the next one. Effects (answers, leases to send, events
to show) run on the loop after the commit.

A flush begins once the loop has heard everything: a few turns of it brought nothing more. There is
no timer. An idle system commits after those turns, which take it some ten microseconds; a busy one
commits less often, and spends less on it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import structlog

from tenure_server.core.evidence import Draft
from tenure_server.core.ledger.journal import Changes
from tenure_server.store.acts import Acts
from tenure_server.store.writer import Writer

T = TypeVar("T")
Effect = Callable[[], None]
#: Told to one who waits when nothing of what he waits for was kept.
Abandon = Callable[[BaseException], None]

#: So many turns of the loop bring nothing more before a flush begins: what is on its way through
#: the line of its tenant, the gates or the parts of gRPC takes one or two for each step.
QUIET_TURNS = 3
#: After so long a flush begins all the same.
HEARING_SECONDS = 0.005

log = structlog.get_logger()


class Batch:
    """What is committed together, and what follows from it."""

    __slots__ = ("abandons", "changes", "effects")

    def __init__(self, changes: Changes, effects: list[Effect], abandons: list[Abandon]) -> None:
        self.changes = changes
        self.effects = effects
        self.abandons = abandons


class Commits:
    """The loop's side and the thread's side of the writer."""

    def __init__(
        self,
        writer: Writer,
        *,
        seal: Callable[[], Batch],
        committed: Callable[[Batch], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._writer = writer
        self._seal = seal
        self._committed = committed
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._asked = False
        #: How many turns have brought nothing since it was last asked for a flush.
        self._quiet_turns = 0
        self._flush_at = 0.0
        self._committing: Batch | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        #: How many transactions were committed, for benchmarks and metrics.
        self.count = 0
        self._thread = threading.Thread(target=self._write, name="writer", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Wants a flush as soon as the loop has heard everything."""
        self._quiet_turns = 0
        if not self._asked:
            self._asked = True
            self._idle.clear()
            if self._committing is None:
                self._listen()

    async def settled(self) -> None:
        """Waits until nothing is asked for and nothing is being committed."""
        await self._idle.wait()

    @property
    def at_rest(self) -> bool:
        """Whether nothing is asked for and nothing is being committed."""
        return self._idle.is_set()

    async def on_writer(self, work: Callable[[], T]) -> T:
        """Runs work on the writer's thread, after what was handed to it before."""
        future: asyncio.Future[T] = self._loop.create_future()

        def run() -> None:
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits
                self._loop.call_soon_threadsafe(_fail, future, error)
            else:
                self._loop.call_soon_threadsafe(_resolve, future, result)

        self._work.put(run)
        return await asyncio.shield(future)

    async def act(
        self, seats: Mapping[str, int], work: Callable[[Acts], T], drafts: Sequence[Draft] = ()
    ) -> T:
        """Runs a cold-path mutation in a transaction of its own, and writes its evidence."""
        return await self.on_writer(lambda: self._writer.act(seats, work, drafts))

    async def close(self, at_most_seconds: float) -> None:
        """Ends the thread after what was handed to it, or leaves it behind: it ends no later than
        the process does.
        """
        self._work.put(None)
        await asyncio.to_thread(self._thread.join, at_most_seconds)
        if self._thread.is_alive():
            log.warning("the writer is left behind in the middle of a transaction")

    def _listen(self) -> None:
        self._flush_at = self._loop.time() + HEARING_SECONDS
        self._loop.call_soon(self._hear)

    def _hear(self) -> None:
        if self._quiet_turns < QUIET_TURNS and self._loop.time() < self._flush_at:
            self._quiet_turns += 1
            self._loop.call_soon(self._hear)
        else:
            self._flush()

    def _flush(self) -> None:
        if not self._asked or self._committing is not None:
            return
        self._asked = False
        try:
            batch = self._seal()
        except Exception as error:  # noqa: BLE001 - a half-made turn must not be gone on with
            self._failed(error)
            self._rest()
            return
        if batch.changes:
            self._committing = batch
            self._work.put(lambda: self._commit(batch))
            return
        self._finish(batch, None)
        self._rest()

    def _commit(self, batch: Batch) -> None:
        try:
            self._writer.commit(batch.changes)
        except BaseException as error:  # noqa: BLE001 - every failure ends in a reload
            self._loop.call_soon_threadsafe(self._done, batch, error)
        else:
            self._loop.call_soon_threadsafe(self._done, batch, None)

    def _done(self, batch: Batch, error: BaseException | None) -> None:
        # The batch still counts as under way: what its effects ask for waits for the flush below.
        if error is None:
            self.count += 1
        try:
            self._finish(batch, error)
        finally:
            self._committing = None
            if self._asked:
                # What the loop has heard already goes along: it is handled before the flush runs.
                self._listen()
            self._rest()

    def _finish(self, batch: Batch, error: BaseException | None) -> None:
        if error is None:
            try:
                for effect in batch.effects:
                    effect()
                self._committed(batch)
            except Exception as fault:  # noqa: BLE001 - as with a turn that could not be sealed
                error = fault
        if error is not None:
            # Who has been told already does not mind.
            for abandon in batch.abandons:
                abandon(error)
            self._failed(error)

    def _rest(self) -> None:
        if not self._asked and self._committing is None:
            self._idle.set()

    def _write(self) -> None:
        while (work := self._work.get()) is not None:
            work()


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
