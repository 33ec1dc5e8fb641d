"""The line through which tests move a clock that stands still: a Unix socket, JSON lines.

A request is `{"tenant": …, "until_us": …}`: jump to what is due next, at most that far; without
`until_us` only wait until nothing happens any more. The answer is `{"now_us": …, "due_us": …}`, or
`{"error": …}`. It is no part of the contract, and there is none unless `--skip-time` says where.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import orjson

from tenure_server.core import errors
from tenure_server.engine.standstill import Quiet, Standstill


class StandstillLine:
    """Listens on a Unix socket that its owner alone can open."""

    def __init__(self, standstill: Standstill) -> None:
        self._standstill = standstill
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.StreamWriter] = set()

    async def open(self, path: Path) -> None:
        """Begins to listen. Raises OSError."""
        self._server = await asyncio.start_unix_server(self._talk, path)
        os.chmod(path, 0o600)

    async def close(self) -> None:
        """Ends every talk."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._talks):
                writer.close()
            await self._server.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._talks.add(writer)
        with contextlib.suppress(ConnectionError):
            async for line in reader:
                writer.write(orjson.dumps(await self._answer(line)) + b"\n")
                await writer.drain()
        self._talks.discard(writer)
        writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            asked = orjson.loads(line)
            tenant_id, until_us = asked["tenant"], asked.get("until_us")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return {"error": f"not a request: {error}"}
        try:
            quiet: Quiet
            if until_us is None:
                quiet = await self._standstill.settle(tenant_id)
            else:
                quiet = await self._standstill.jump(tenant_id, int(until_us))
        except errors.Refusal as refusal:
            return {"error": refusal.message}
        return {"now_us": quiet.now_us, "due_us": quiet.due_us}
