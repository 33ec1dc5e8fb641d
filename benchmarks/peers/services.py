"""What peers keep their work in: files, databases and a Redis, each fresh and each durable."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import stores
from benchmarks.peers.adapter import MissingError

_REDIS_SECONDS_MAX = 10.0


@contextlib.contextmanager
def folder_only(folder: Path) -> Iterator[str]:
    """No service: the peer makes its own file in the folder."""
    yield ""


@contextlib.contextmanager
def sqlite(folder: Path) -> Iterator[str]:
    """The URL of a file that is not there yet."""
    yield f"sqlite:///{folder}/peer.db"


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[str]:
    """A fresh database of a PostgreSQL server of its own, which commits to disk."""
    with contextlib.ExitStack() as undo:
        try:
            new_store = undo.enter_context(stores.stores("postgresql"))
        except stores.StoreError as error:
            raise MissingError(str(error)) from None
        yield new_store(folder)


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[str]:
    """A Redis that writes each command to disk before it answers."""
    program = shutil.which("redis-server")
    if program is None:
        raise MissingError("there is no redis-server on PATH")
    socket = folder / "redis.sock"
    durable = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
    with (folder / "redis.log").open("ab") as log:
        server = subprocess.Popen(
            [program, "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), *durable],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _wait(socket.exists, server)
        yield f"unix://{socket}"
    finally:
        server.terminate()
        server.wait(_REDIS_SECONDS_MAX)


def _wait(holds: Callable[[], bool], server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _REDIS_SECONDS_MAX
    while not holds():
        if server.poll() is not None or time.monotonic() > deadline:
            raise MissingError("redis-server does not start")
        time.sleep(0.01)
