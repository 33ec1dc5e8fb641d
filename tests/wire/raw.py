"""Calls byte by byte: what no well-behaved client would send, and all that comes back."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from tests import logbook

from tenure_client import errors

Metadata = Sequence[tuple[str, str]]
#: Every row of every table but the seats, which are renewed all the time, and the evidence, which
#: tells of whatever is asked.
Dump = dict[str, list[tuple[Any, ...]]]


@dataclass(frozen=True, slots=True)
class Said:
    """What the coordinator said."""

    code: grpc.StatusCode
    reason: str = ""
    message: str = ""
    fields: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    answers: tuple[bytes, ...] = ()


class Line:
    """A channel on which any bytes can be sent to any method."""

    def __init__(self, address: str) -> None:
        # The stubs' types know no bytes without a serializer.
        self.channel: Any = grpc.aio.insecure_channel(
            address,
            options=[("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)],
        )

    async def __aenter__(self) -> Line:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def unary(self, method: str, request: bytes | Message, metadata: Metadata) -> Said:
        """Calls a method with one request, whether it answers once or with a stream."""
        return await self._read(
            self.channel.unary_stream(f"/tenure.v1.{method}")(
                _bytes(request), metadata=tuple(metadata), timeout=60
            )
        )

    async def stream(
        self, method: str, requests: Iterable[bytes | Message], metadata: Metadata
    ) -> Said:
        """Calls a method with a stream of requests, and then says no more."""

        async def say() -> AsyncIterator[bytes]:
            for request in requests:
                yield _bytes(request)

        return await self._read(
            self.channel.stream_stream(f"/tenure.v1.{method}")(
                say(), metadata=tuple(metadata), timeout=60
            )
        )

    @staticmethod
    async def _read(call: Any) -> Said:
        answers: list[bytes] = []
        try:
            async for answer in call:
                answers.append(answer)
        except grpc.aio.AioRpcError as error:
            read = errors.from_rpc(error)
            return Said(
                code=error.code(),
                reason=read.reason,
                message=read.message,
                fields=tuple(field for field, _ in read.fields),
                facts=tuple(sorted(read.metadata.items())),
                answers=tuple(answers),
            )
        return Said(grpc.StatusCode.OK, answers=tuple(answers))


def bearer(secret: str) -> tuple[str, str]:
    """The header that carries a key."""
    return ("authorization", f"Bearer {secret}")


def dump(database: Path) -> Dump:
    """Reads everything that a SQLite store holds."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        names = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if name != "seats" and not name.startswith("evidence_")
        ]
        return {
            name: sorted(connection.execute(f'SELECT * FROM "{name}"'), key=repr) for name in names
        }


class Before:
    """A SQLite store as it was: afterwards it has to be the same but for the evidence."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._dump = dump(database)
        self._sizes = self._logs().sizes()

    def check(self, *refusals: str) -> None:
        """Wants nothing to have happened since, and these refusals, by reason, to be written down:
        one entry each, and no other.
        """
        assert dump(self._database) == self._dump
        logs = self._logs()
        logs.check()
        added = [entry for log in logs.since(self._sizes).values() for entry in log]
        assert sorted(entry["refusal"] for entry in added if "refusal" in entry) == sorted(refusals)
        assert not any("items" in entry for entry in added), "something happened to a run"

    def _logs(self) -> logbook.Logs:
        return logbook.read_url(f"sqlite://{self._database}")


def _bytes(request: bytes | Message) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()
