"""Streams of numbered things that are taken up again where they broke.

The server can begin a stream behind any number. So a lost line loses nothing: the next one begins
behind the last thing that was given, and what comes a second time is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, Generic, TypeVar

import grpc.aio

from tenure_client.connection import Connection, Stubs

#: A message of the stream, and a thing in it.
A = TypeVar("A")
T = TypeVar("T")

#: Between streams that end without a word, as those of a coordinator that stops do.
_PAUSE_SECONDS = 0.2


class ResumingStream(Generic[A, T]):
    """One stream over lines that may break; it knows the next number and goes on from there.

    `method` and `request` begin it at a number, `things` takes a message apart, and `number` tells
    which number a thing has. Numbers grow.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        next_number: int,
        method: Callable[[Stubs], grpc.aio.UnaryStreamMultiCallable[Any, A]],
        request: Callable[[int], Any],
        things: Callable[[A], Iterable[T]],
        number: Callable[[T], int],
    ) -> None:
        self.next_number = next_number
        self._connection = connection
        self._method = method
        self._request = request
        self._things = things
        self._number = number
        self._call: grpc.aio.UnaryStreamCall[Any, A] | None = None

    async def batches(self) -> AsyncGenerator[list[T] | None, None]:
        """Gives what is new, message by message, and None each time the stream ended by itself.

        After such an end it begins again. Raises TenureError for a line that stays broken for the
        connection's time for retries, which counts anew from each message.
        """
        try:
            while True:
                message = await self._next_message()
                if message is None:
                    yield None
                    await asyncio.sleep(_PAUSE_SECONDS)
                else:
                    yield self._new(message)
        finally:
            if self._call is not None:
                self._call.cancel()

    def _new(self, message: A) -> list[T]:
        """The things of a message that were not given before."""
        found = []
        for thing in self._things(message):
            # A coordinator may begin again a little earlier; nobody sees a thing twice.
            if self._number(thing) >= self.next_number:
                self.next_number = self._number(thing) + 1
                found.append(thing)
        return found

    async def _next_message(self) -> A | None:
        async for attempt in self._connection.retrying():
            with attempt:
                try:
                    return await self._read()
                except grpc.aio.AioRpcError as error:
                    self._call = None
                    raise self._connection.failed(error) from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _read(self) -> A | None:
        if self._call is None:
            begin = self._method(self._connection.stubs())
            metadata = self._connection.metadata()
            self._call = begin(self._request(self.next_number), metadata=metadata)
        message: Any = await self._call.read()
        if message is grpc.aio.EOF:
            self._call = None
            return None
        found: A = message
        return found
