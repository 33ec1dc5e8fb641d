"""What the programs of all peers share. Runs in the peers' own environment: standard library only.

A program has three roles, given as its first argument: `prepare` makes the schema once, `work` is
one worker, `drive` is the client, which reads orders as lines of JSON and answers with a line
each. Where it works is told in the environment: PEER_FOLDER and PEER_URL.

What is executed leaves a line in a file that all workers append to. A figure counts only when that
file has each step of each task exactly once and the peer's own records agree.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Steps of a chain.
LENGTH = 4
URL = os.environ.get("PEER_URL", "")
FOLDER = Path(os.environ.get("PEER_FOLDER", "."))
#: Nothing that is asked for takes longer, or it hangs.
SECONDS_MAX = 120.0
_LOOK_SECONDS = 0.002
_LINE = "{batch:>6} {number:>7} {step}\n"
_LINE_BYTES = len(_LINE.format(batch=0, number=0, step=0))


class WrongHistoryError(Exception):
    """Something was lost, or done twice."""


def execute(batch: int, number: int, step: int) -> int:
    """The work of every task: nothing, but for the trace it leaves. Gives the next step."""
    os.write(_executions(), _LINE.format(batch=batch, number=number, step=step).encode())
    return step + 1


class Client(ABC):
    """How a peer is given work, and how it says that it is done."""

    @abstractmethod
    def submit_tasks(self, batch: int, count: int) -> None:
        """Submits independent tasks by the quickest durable way the peer has."""

    @abstractmethod
    def submit_chains(self, batch: int, count: int) -> None:
        """Submits chains of `LENGTH` steps, each after the one before."""

    @abstractmethod
    def settled(self, batch: int, count: int, steps: int) -> bool:
        """Whether the peer's own records say that all of a batch is done. Raises when it failed."""

    def one_chain(self, batch: int) -> None:
        """Submits one chain and waits for its end."""
        self.submit_chains(batch, 1)
        _until(lambda: _executed() >= _expected, 0.0005)
        _until(lambda: self.settled(batch, 1, LENGTH), 0.0005)


_expected = 0


def drive(client: Client) -> None:
    """Follows orders until standard input ends."""
    batch = 0
    for line in sys.stdin:
        order = json.loads(line)
        batch += 1
        try:
            seconds = _follow(client, order["do"], batch, order["count"])
            answer: dict[str, Any] = {"seconds": seconds}
        except Exception as error:  # noqa: BLE001 - whatever it is, the other side has to know
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
        batch += order["count"] if order["do"] == "latency" else 0


def _follow(client: Client, what: str, batch: int, count: int) -> list[float]:
    global _expected
    took = []
    if what == "latency":
        for number in range(count):
            _expected += LENGTH
            begin = time.perf_counter()
            client.one_chain(batch + number)
            took.append(time.perf_counter() - begin)
        for number in range(count):
            _check(batch + number, 1, LENGTH)
        return took
    steps = LENGTH if what == "chains" else 1
    _expected += count * steps
    begin = time.perf_counter()
    (client.submit_chains if steps > 1 else client.submit_tasks)(batch, count)
    _until(lambda: _executed() >= _expected, _LOOK_SECONDS)
    _until(lambda: client.settled(batch, count, steps), _LOOK_SECONDS)
    took.append(time.perf_counter() - begin)
    _check(batch, count, steps)
    return took


def _check(batch: int, count: int, steps: int) -> None:
    """Raises WrongHistoryError unless each step was executed exactly once, and in order."""
    done = [0] * count
    for line in _file().read_text().splitlines():
        of_batch, number, step = map(int, line.split())
        if of_batch != batch:
            continue
        if done[number] != step:
            raise WrongHistoryError(f"executed step {step} of {number} after {done[number]} steps")
        done[number] += 1
    if any(steps != of_one for of_one in done):
        raise WrongHistoryError(f"executed {sum(done)} of {count * steps} steps")


def _until(holds: Callable[[], bool], pause: float) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not holds():
        if time.monotonic() > deadline:
            raise WrongHistoryError(f"executed {_executed()} of {_expected} steps in time")
        time.sleep(pause)


def _file() -> Path:
    return FOLDER / "executions"


def _executed() -> int:
    return _file().stat().st_size // _LINE_BYTES if _file().exists() else 0


@functools.cache
def _executions() -> int:
    return os.open(_file(), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
