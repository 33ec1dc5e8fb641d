"""The threads that read the store, so that the loop never waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from tenure_server.store.database import Store

P = ParamSpec("P")
T = TypeVar("T")


class Readers:
    """A few threads, and one more for what takes long."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._readers = ThreadPoolExecutor(2, "reader")
        self._long_reader = ThreadPoolExecutor(1, "long-reader")

    async def read(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs work on a read-only connection in a reader thread."""
        return await self._read_in(self._readers, partial(work, *args, **kwargs))

    async def read_long(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `read`, for work that takes so long that other reads must not stand behind it."""
        return await self._read_in(self._long_reader, partial(work, *args, **kwargs))

    async def _read_in(self, readers: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        def run() -> T:
            with self._store.reading():
                return work()

        return await asyncio.get_running_loop().run_in_executor(readers, run)

    def close(self) -> None:
        """Lets what is under way be read, and ends the threads."""
        self._readers.shutdown()
        self._long_reader.shutdown()
