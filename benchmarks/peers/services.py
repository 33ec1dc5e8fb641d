"""What peers keep their work in: files, databases and a Redis, each fresh and each durable."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import stores
from benchmarks.peers.adapter import PYTHON, MissingError

_START_SECONDS_MAX = 60.0
_STOP_SECONDS_MAX = 10.0


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
        server.wait(_STOP_SECONDS_MAX)


@contextlib.contextmanager
def prefect(folder: Path) -> Iterator[str]:
    """The URL of a Prefect server on a SQLite file in the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    command = [str(PYTHON), "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    with (folder / "prefect.log").open("ab") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={
                "PATH": os.environ["PATH"],
                "PREFECT_HOME": str(folder),
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            },
        )
    try:
        _wait(lambda: _answers(f"{url}/health"), server)
        yield url
    finally:
        server.terminate()
        server.wait(_STOP_SECONDS_MAX)


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1) as answer:
        return bool(answer.status == 200)
    return False


def _wait(holds: Callable[[], bool], server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS_MAX
    while not holds():
        if server.poll() is not None or time.monotonic() > deadline:
            raise MissingError("the server does not start")
        time.sleep(0.01)
