"""The status that a server gave stays, though a write of the client meets the end of its call.

gRPC's asyncio client puts INTERNAL ("Internal error from Core") over it where its loop hears of the
write after the status: https://github.com/grpc/grpc/issues/36066, open as of grpcio 1.85. An agent
comes again and is told then; a test that reads one refusal has no second chance.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from grpc._cython import cygrpc
from grpc.aio import _call

#: How long the status may be on its way when a write has failed.
_STATUS_SECONDS = 5.0
_calls: Any = _call._StreamRequestMixin
_send = _calls._write


class _Call:
    """The core's side of a call, whose failed write waits for the call's own status."""

    def __init__(self, core: Any) -> None:
        self._core = core

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    async def send_serialized_message(self, message: bytes) -> None:
        try:
            await self._core.send_serialized_message(message)
        except cygrpc.InternalError:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STATUS_SECONDS):
                    await self._core.status()
            raise

    def set_internal_error(self, words: str) -> None:
        if not self._core.done():
            self._core.set_internal_error(words)


async def _write(call: Any, request: Any) -> None:
    if not isinstance(call._cython_call, _Call):
        call._cython_call = _Call(call._cython_call)
    await _send(call, request)


def keep_the_status() -> None:
    """Mends the client of this process."""
    _calls._write = _write
