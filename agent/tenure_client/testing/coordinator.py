"""The coordinator that all tests of a process share, and the line through which time passes."""

from __future__ import annotations

import asyncio
import atexit
import tempfile
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import orjson

from tenure_client.cli import embedded

#: Memory, where a system has it as a folder: nothing here is to outlive the process.
_MEMORY = Path("/dev/shm")
#: Leases must outlive handlers that somebody looks at in a debugger: time stands still, and nobody
#: but the agent would notice.
_LEASE_SECONDS = "3600"


class Coordinator:
    """A coordinator in a process of its own, whose time stands still. Use `with`, or `stop` it.

    It lives in a thread with a loop of its own, so that tests may come and go with theirs.
    """

    def __init__(self) -> None:
        """Starts it. Raises EmbeddedError."""
        folder = str(_MEMORY) if _MEMORY.is_dir() else None
        self._folder = tempfile.TemporaryDirectory(prefix="tenure-", dir=folder)
        self.path = Path(self._folder.name)
        #: The socket through which time passes.
        self.clock = self.path / "clock"
        self.address = ""
        self.operator_key = ""
        self._serving: Future[None] = Future()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._live, name="tenure-coordinator", daemon=True)
        self._thread.start()
        try:
            self._serving.result()
        except BaseException:
            self._folder.cleanup()
            raise

    def __enter__(self) -> Coordinator:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stops it and removes everything. Stopping twice is the same as once."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._folder.cleanup()

    def _live(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - whoever waits for the start is told
            if not self._serving.done():
                self._serving.set_exception(error)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with embedded.Embedded(self.path) as house:
            await house.start_coordinator(
                "127.0.0.1:0", "--skip-time", str(self.clock), "--lease-seconds", _LEASE_SECONDS
            )
            self.address, self.operator_key = house.address, house.operator_key()
            self._serving.set_result(None)
            await self._stop.wait()


_shared: list[Coordinator] = []
_sharing = threading.Lock()


def shared() -> Coordinator:
    """The coordinator of this process, started when first asked for. Raises EmbeddedError."""
    with _sharing:
        if not _shared:
            _shared.append(Coordinator())
            atexit.register(_shared[0].stop)
        return _shared[0]


@dataclass(frozen=True, slots=True)
class Quiet:
    """Nothing more happens at this time; in microseconds since the Unix epoch."""

    now_us: int
    #: When something falls due next, or None.
    due_us: int | None


class ClockLine:
    """Lets time pass for one tenant."""

    def __init__(self, path: Path, tenant: str) -> None:
        self._path = path
        self._tenant = tenant
        self._turn = asyncio.Lock()
        self._line: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def settle(self) -> Quiet:
        """Waits until nothing happens any more without time passing."""
        return await self._ask({"tenant": self._tenant})

    async def jump(self, until_us: int) -> Quiet:
        """Jumps to what falls due next, at most so far, and waits as `settle` does."""
        return await self._ask({"tenant": self._tenant, "until_us": until_us})

    async def close(self) -> None:
        """Hangs up."""
        if self._line is not None:
            self._line[1].close()
            await self._line[1].wait_closed()
            self._line = None

    async def _ask(self, request: dict[str, object]) -> Quiet:
        async with self._turn:
            if self._line is None:
                self._line = await asyncio.open_unix_connection(self._path)
            reader, writer = self._line
            try:
                writer.write(orjson.dumps(request) + b"\n")
                await writer.drain()
                line = await reader.readline()
            except BaseException:
                # Its answer would be taken for that of the next request.
                self._line = None
                writer.close()
                raise
        if not line:
            raise embedded.EmbeddedError("the coordinator has ended")
        answer = orjson.loads(line)
        if "error" in answer:
            raise embedded.EmbeddedError(answer["error"])
        return Quiet(answer["now_us"], answer["due_us"])
