"""A runner on trial: starts attempts and notes all that the runner tells."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from tests.agent.fake_coordinator import key_of, new_lease

from tenure.v1 import agents_pb2, payload_pb2
from tenure_agent import handlers
from tenure_agent.handlers import Handler
from tenure_agent.holding import Key
from tenure_agent.references import References
from tenure_agent.runner import Attempt, Runner

RUN = agents_pb2.RunContext(
    run_id="run",
    tenant_id="acme",
    workflow="trial",
    correlation_id="c1",
    input=payload_pb2.Payload(data=b'{"n": 7}'),
)
STOP_SECONDS = 0.3


class Trial:
    """A runner and everything that it told."""

    def __init__(
        self,
        table: dict[str, Handler],
        *,
        slots: int,
        stop_seconds: float,
        references: References | None = None,
    ) -> None:
        self.ended: dict[Key, asyncio.Future[agents_pb2.Result | None]] = {}
        self.freed = 0
        self.words: list[tuple[Key, bool]] = []
        self.spoke = asyncio.Event()
        self.any_freed = asyncio.Event()
        self.runner = Runner(
            {**handlers.BUILTIN, **table},
            loop=asyncio.get_running_loop(),
            slots=slots,
            stop_seconds=stop_seconds,
            on_end=self._ended,
            on_free=self._freed,
            on_word=self._word,
            references=references,
        )

    def _ended(self, attempt: Attempt, result: agents_pb2.Result | None) -> None:
        self.ended[attempt.key].set_result(result)

    def _freed(self) -> None:
        self.freed += 1
        self.any_freed.set()

    def _word(self, key: Key, urgent: bool) -> None:
        self.words.append((key, urgent))
        self.spoke.set()

    def start(
        self, kind: str, value: Any = None, *, run: agents_pb2.RunContext = RUN, **fields: Any
    ) -> Key:
        """Begins an attempt."""
        if value is not None:
            fields["input"] = payload_pb2.Payload(data=json.dumps(value).encode())
        lease = new_lease(f"t{len(self.ended)}", kind, **fields)
        key = key_of(lease)
        self.ended[key] = asyncio.get_running_loop().create_future()
        at_once = self.runner.start(key, lease, run)
        if at_once is not None:
            self.ended[key].set_result(at_once)
        return key

    async def end(self, key: Key) -> agents_pb2.Result | None:
        """Waits for the result of an attempt."""
        async with asyncio.timeout(60):
            return await self.ended[key]

    async def result(self, kind: str, value: Any = None, **fields: Any) -> agents_pb2.Result:
        """Runs an attempt to its end."""
        ended = await self.end(self.start(kind, value, **fields))
        assert ended is not None
        return ended


StartTrial = Callable[..., Trial]


def output(result: agents_pb2.Result) -> Any:
    assert result.WhichOneof("end") == "success", result
    return json.loads(result.success.output.data)


def failure(result: agents_pb2.Result) -> tuple[str, str, bool]:
    assert result.WhichOneof("end") == "failure", result
    return result.failure.code, result.failure.message, result.failure.non_retryable
