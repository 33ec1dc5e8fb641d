"""Processes under test that are forked: they end as others do, and one does not hurt the next."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.wire.nursery import Child, Nursery

PROGRAM = """
import sys
print("begun", flush=True)
sys.exit(int(sys.stdin.readline() or 3))
"""


class Home:
    """A nursery, and a program for those that are born there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = (folder / "log").open("ab")
        self.nursery = Nursery()
        (folder / "program.py").write_text(PROGRAM)

    @property
    def command(self) -> list[str]:
        """What is to be run."""
        return [str(self.folder / "program.py")]

    def bear(self) -> Child:
        """Gives one that has begun."""
        before = self._begun()
        number = self.log.fileno()
        child = self.nursery.bear(
            self.command, stdout=number, stderr=number, env=os.environ, cwd=self.folder
        )
        deadline = time.monotonic() + 40
        while self._begun() == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return child

    def ask_and_hang_up(self) -> None:
        """Wants one, and does not wait for its birth."""
        (theirs, ours), (heard, told) = os.pipe(), os.pipe()
        os.close(heard)
        request = {"command": self.command, "env": dict(os.environ), "cwd": str(self.folder)}
        handed = [theirs, self.log.fileno(), self.log.fileno(), told]
        socket.send_fds(self.nursery.line(), [json.dumps(request).encode()], handed)
        for descriptor in (theirs, ours, told):
            os.close(descriptor)

    def _begun(self) -> int:
        return (self.folder / "log").read_text().count("begun")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("home"))
    yield home
    home.log.close()


def test_its_exit_code_is_told(home: Home) -> None:
    child = home.bear()
    child.stdin.write(b"7\n")
    assert child.wait(40) == 7
    child.stdin.close()


def test_it_is_told_that_its_input_has_ended(home: Home) -> None:
    child = home.bear()
    child.stdin.close()
    assert child.wait(40) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_signal_is_told_that_ended_it(home: Home, number: signal.Signals) -> None:
    child = home.bear()
    assert child.poll() is None
    child.send_signal(number)
    assert child.wait(40) == -number
    child.stdin.close()


def test_one_who_does_not_wait_for_a_birth_takes_nobody_elses(home: Home) -> None:
    """As a test that is interrupted: those that come after it start as ever."""
    first = home.bear()
    for _ in range(2):
        home.ask_and_hang_up()
    for child in (first, home.bear(), home.bear()):
        child.stdin.close()
        assert child.wait(40) == 3
