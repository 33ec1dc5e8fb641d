"""A TCP proxy in this process that stands before a coordinator and spoils the line.

What it holds back it delivers late, as a network does that sends again; what it cuts ends with a
reset on both sides.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Literal

#: What becomes of bytes: they pass, they pass late, or they are held back - all of them, those to
#: the coordinator, or those from it (half-open).
Mode = Literal["open", "slow", "hole", "deaf", "mute"]
_RESET = struct.pack("ii", 1, 0)
_CHUNK_BYTES = 1 << 16


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes on to another one."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._mode: Mode = "open"
        self._delay = 0.0
        self._changed = asyncio.Event()
        self._lines: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.address = ""

    async def start(self) -> None:
        """Begins to listen."""
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"

    async def close(self) -> None:
        """Ends everything."""
        if self._server is not None:
            self._server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def set(self, mode: Mode, delay: float = 0.0) -> None:
        """Changes what becomes of bytes; `delay` is for the slow mode, in seconds."""
        self._mode, self._delay = mode, delay
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def cut(self) -> None:
        """Resets every line."""
        for line in list(self._lines):
            with contextlib.suppress(OSError):
                line.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, _RESET
                )
            line.transport.abort()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        lines = [writer]
        self._lines.add(writer)
        try:
            # A call that is made into a black hole reaches nobody until the hole is closed.
            await self._held("up")
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
            lines.append(far_writer)
            self._lines.add(far_writer)
            ways = [
                asyncio.create_task(self._pump(reader, far_writer, "up")),
                asyncio.create_task(self._pump(far_reader, writer, "down")),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the coordinator is not there, or the proxy is closed: the line ends below
        finally:
            for line in lines:
                self._lines.discard(line)
                line.transport.abort()
            self._serving.discard(task)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        way: Literal["up", "down"],
    ) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            await self._held(way)
            writer.write(data)
            await writer.drain()

    async def _held(self, way: Literal["up", "down"]) -> None:
        closed = {"up": ("hole", "deaf"), "down": ("hole", "mute")}[way]
        while self._mode in closed:
            await self._changed.wait()
        if self._mode == "slow":
            await asyncio.sleep(self._delay)
