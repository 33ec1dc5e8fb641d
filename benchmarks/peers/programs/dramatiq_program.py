"""Dramatiq with Redis, and its results there too."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import dramatiq
import harness
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

server = redis.Redis.from_url(harness.URL)
backend = RedisBackend(client=server)
broker = RedisBroker(url=harness.URL)
broker.add_middleware(Results(backend=backend))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True, max_retries=0)
def step(batch: int, number: int, at: int) -> int:
    """A task, or a step of a chain: its place is what the one before it gave, which comes last."""
    return harness.execute(batch, number, at)


class Client(harness.Client):
    """Enqueues one by one: it has no batch."""

    def __init__(self) -> None:
        self._keys: list[str] = []

    def submit_tasks(self, batch: int, count: int) -> None:
        self._keys = [self._key(step.send(batch, number, 0)) for number in range(count)]

    def submit_chains(self, batch: int, count: int) -> None:
        self._keys = []
        for number in range(count):
            later = [step.message(batch, number) for _ in range(harness.LENGTH - 1)]
            chain = dramatiq.pipeline([step.message(batch, number, 0), *later]).run()
            self._keys += [self._key(message) for message in chain.messages]

    def settled(self, batch: int, count: int, steps: int) -> bool:
        if len(self._keys) != count * steps:
            raise harness.WrongHistoryError(f"submitted {len(self._keys)} of {count * steps}")
        return all(
            server.exists(*self._keys[place : place + 1000])
            == len(self._keys[place : place + 1000])
            for place in range(0, len(self._keys), 1000)
        )

    def _key(self, message: dramatiq.Message) -> str:
        return str(backend.build_message_key(message))


if __name__ == "__main__":
    role = sys.argv[1]
    if role == "drive":
        harness.drive(Client())
    elif role == "work":
        os.chdir(Path(__file__).parent)
        how = ["--processes", "2", "--threads", "4", "--skip-logging"]
        os.execv(sys.executable, [sys.executable, "-m", "dramatiq", "dramatiq_program", *how])
