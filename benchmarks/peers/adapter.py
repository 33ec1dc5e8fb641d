"""A peer as the comparison sees it, and the one way in which all peers are driven.

A peer is an entry of `catalogue` and a program in `programs`, which runs in the peers' own
environment and has three roles:

    prepare   makes the schema, once, before anything else
    work      is a worker, until SIGTERM; `Peer.workers` of them are started
    drive     is the client: `harness.drive` with a `harness.Client`, which submits and says when
              the peer's own records have all of it

`PEER_FOLDER` is a directory that goes with the round, `PEER_URL` what the peer's `service` gives.

A peer that is a server of its own (Temporal, Hatchet) is added the same way: a program whose roles
connect to `PEER_URL` (`prepare` may create the namespace and exit), and a service in `services`
that yields the address from an environment variable, or raises `MissingError` when it is not set.
Its settings say what the server behind the address does on a commit; a ratio to a server that does
not write through to disk is none.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import ProcessError
from benchmarks.verification import WrongHistoryError

PROGRAMS = Path(__file__).parent / "programs"
PYTHON = Path(__file__).parents[2] / ".venv-peers" / "bin" / "python"

#: An order takes no longer, or the peer hangs. A little more than the program's own patience.
ORDER_SECONDS_MAX = 150.0
_STOP_SECONDS_MAX = 10.0
_PREPARE_SECONDS_MAX = 60.0

#: Gives the URL of a fresh store in a directory, for as long as it is entered.
Service = Callable[[Path], AbstractContextManager[str]]


class MissingError(Exception):
    """A peer cannot run here. The message says what it lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """What is compared with, and how it is set up."""

    name: str
    #: The program's file name without its ending.
    program: str
    #: The package that has to be importable in the peers' environment.
    package: str
    service: Service
    #: The kind of store that Tenure is given beside it.
    beside: str
    workers: int
    #: How much it is asked for at once: so much that it takes some seconds.
    tasks: int
    chains: int
    #: Every setting that matters, and why it is so.
    settings: Mapping[str, str]

    def check(self) -> str:
        """Gives the installed version. Raises MissingError."""
        if not PYTHON.exists():
            raise MissingError(f"there is no {PYTHON.parents[1].name}: make bench-peers builds it")
        question = f"import importlib.metadata as m; print(m.version({self.package!r}))"
        answer = subprocess.run(
            [str(PYTHON), "-c", question], capture_output=True, text=True, check=False, timeout=30
        )
        if answer.returncode:
            raise MissingError(f"{self.package} is not installed in {PYTHON.parents[1].name}")
        return answer.stdout.strip()


class Running:
    """A peer whose workers run. Make it with `running`."""

    def __init__(self, peer: Peer, folder: Path, url: str) -> None:
        self._peer = peer
        self._folder = folder
        self._log = folder / "peer.log"
        self._environment = {
            **{word: os.environ[word] for word in ("PATH", "HOME", "LANG") if word in os.environ},
            "PEER_FOLDER": str(folder),
            "PEER_URL": url,
        }
        self._workers: list[subprocess.Popen[bytes]] = []
        self._client: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Prepares the store, starts the workers and the client. Raises ProcessError."""
        preparing = self._spawn("prepare")
        if await asyncio.to_thread(preparing.wait, _PREPARE_SECONDS_MAX):
            raise ProcessError(f"{self._peer.name} could not prepare: {self._log_end()}")
        self._workers = [self._spawn("work") for _ in range(self._peer.workers)]
        self._client = self._spawn("drive", answers=True)

    async def order(self, what: str, count: int) -> Sequence[float]:
        """Has the client do something, and gives the seconds it took.

        Raises WrongHistoryError when something was lost or done twice, ProcessError when it hangs.
        """
        client = self._client
        assert client is not None
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(json.dumps({"do": what, "count": count}).encode() + b"\n")
        client.stdin.flush()
        try:
            async with asyncio.timeout(ORDER_SECONDS_MAX):
                line = await asyncio.to_thread(client.stdout.readline)
        except TimeoutError:
            client.kill()
            raise ProcessError(f"{self._peer.name} hangs: {self._log_end()}") from None
        if not line:
            raise ProcessError(f"the client of {self._peer.name} has gone: {self._log_end()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WrongHistoryError(f"{self._peer.name}: {answer['error']}")
        seconds: list[float] = answer["seconds"]
        return seconds

    async def stop(self) -> None:
        """Ends the client and the workers with everything that they started."""
        ending = [*self._workers, *([self._client] if self._client else [])]
        for process in ending:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in ending:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, _STOP_SECONDS_MAX)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def _spawn(self, role: str, *, answers: bool = False) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [str(PYTHON), str(PROGRAMS / f"{self._peer.program}.py"), role],
                stdin=subprocess.PIPE if answers else subprocess.DEVNULL,
                stdout=subprocess.PIPE if answers else log,
                stderr=log,
                cwd=self._folder,
                env=self._environment,
                # A group of its own: some peers' workers fork, and all of it has to end.
                start_new_session=True,
            )

    def _log_end(self) -> str:
        return self._log.read_text(errors="replace")[-2000:].strip()


@contextlib.asynccontextmanager
async def running(peer: Peer) -> AsyncIterator[Running]:
    """A peer at work on a fresh store. Everything of it is gone afterwards. Raises MissingError."""
    # The paths of sockets in it must be short.
    folder = Path(tempfile.mkdtemp(prefix="tnrp-"))
    try:
        with peer.service(folder) as url:
            it = Running(peer, folder, url)
            try:
                await it.start()
                yield it
            finally:
                await it.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
