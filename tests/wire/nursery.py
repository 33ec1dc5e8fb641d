"""Where processes under test are born: a process that has imported the product, and forks.

A coordinator that Python starts anew imports for more than half a second of a processor; dozens are
started, and killed, by the tests. One that is forked is as much a process of its own: it has its
own memory, descriptors and end, and `kill -9` is as deadly. That the real commands start as well is
shown by the tests of `tenure dev`, of the examples and of `test_app`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

#: What those that are born need not import any more.
IMPORTED = ("tenure_server.cli", "tenure_server.app", "tenure_agent.daemon")
_REQUEST_BYTES_MAX = 1 << 17
#: Standard input, output and error, and where to tell the process's number and its end.
_DESCRIPTORS = 4
_BIRTH_SECONDS = 60.0
_PROCESSES = 2


class Child:
    """A process that was born here, with what tests use of a `subprocess.Popen`."""

    def __init__(self, news: int, stdin: IO[bytes]) -> None:
        self.stdin = stdin
        self.returncode: int | None = None
        self._news = os.fdopen(news, "rb", buffering=0)
        assert self._heard(_BIRTH_SECONDS), "nothing is born"
        self.pid = self._number()

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; nothing while it lives."""
        if self.returncode is None and self._heard(0):
            self.returncode = self._number()
            self._news.close()
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The same, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it lives on.
        """
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            self._heard(left)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signals it, if it lives."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it without a chance to say anything."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Asks it to end."""
        self.send_signal(signal.SIGTERM)

    def _number(self) -> int:
        told = self._news.readline()
        assert told, "the nursery is gone: it says why where the tests write their errors"
        return int(told)

    def _heard(self, seconds: float) -> bool:
        waiting = select.poll()
        waiting.register(self._news, select.POLLIN)
        return bool(waiting.poll(seconds * 1000))


class Nursery:
    """The processes that fork, started by the first births. They go when this process does.

    There are two, which take turns: those that are born in one hash text alike, and what comes back
    after a kill shall meet another order of sets.
    """

    def __init__(self) -> None:
        self._lines = deque[socket.socket]()

    def bear(
        self,
        command: Sequence[str],
        *,
        stdout: int,
        stderr: int,
        env: Mapping[str, str],
        cwd: Path,
    ) -> Child:
        """What Python would start with these words: `-m module …` or `path …`."""
        theirs, ours = os.pipe()
        heard, told = os.pipe()
        request = {"command": list(command), "env": dict(env), "cwd": str(cwd)}
        handed = [theirs, stdout, stderr, told]
        socket.send_fds(self.line(), [json.dumps(request).encode()], handed)
        os.close(theirs)
        os.close(told)
        return Child(heard, os.fdopen(ours, "wb", buffering=0))

    def line(self) -> socket.socket:
        """To the process whose turn it is."""
        if len(self._lines) < _PROCESSES:
            self._lines.append(self._open())
        self._lines.rotate(1)
        return self._lines[0]

    @staticmethod
    def _open() -> socket.socket:
        line, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (line, far):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _REQUEST_BYTES_MAX)
        with far:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.wire.nursery", str(far.fileno())],
                pass_fds=[far.fileno()],
                stdin=subprocess.DEVNULL,
                cwd=Path(__file__).parents[2],
                env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"},
            )

        def close() -> None:
            line.close()
            process.wait(_BIRTH_SECONDS)

        atexit.register(close)
        return line


#: The nursery of this process.
NURSERY = Nursery()


def _serve(line: socket.socket, by_import: Mapping[str, str]) -> list[str] | None:
    """Forks for each request, and tells of each end. In a child: what it is to run.

    `by_import` is what the product's modules put into the environment.
    """
    awake, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    told_by: dict[int, int] = {}
    while True:
        readable, _, _ = select.select([line, awake], [], [])
        if awake in readable:
            awake.recv(4096)
            _tell_of_ends(told_by)
        if line not in readable:
            continue
        raw, handed, _, _ = socket.recv_fds(line, _REQUEST_BYTES_MAX, _DESCRIPTORS)
        if not raw:
            return None
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (line, awake, wake):
                end.close()
            return _become(json.loads(raw), handed, told_by, by_import)
        told = handed.pop()
        for descriptor in handed:
            os.close(descriptor)
        told_by[pid] = told
        _tell(told, pid)


def _tell_of_ends(told_by: dict[int, int]) -> None:
    while told_by:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        told = told_by.pop(pid)
        _tell(told, os.waitstatus_to_exitcode(status))
        os.close(told)


def _tell(told: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # Where nobody asks any more.
        os.write(told, b"%d\n" % number)


def _become(
    request: dict[str, object],
    handed: list[int],
    others: dict[int, int],
    by_import: Mapping[str, str],
) -> list[str]:
    """Takes on what the new process is given, and lets go of what is not its own."""
    for number, descriptor in enumerate(handed[:3]):
        os.dup2(descriptor, number)
    for descriptor in (*handed, *others.values()):
        os.close(descriptor)
    environment, command = request["env"], request["command"]
    assert isinstance(environment, dict)
    assert isinstance(command, list)
    os.environ.clear()
    os.environ.update({**by_import, **environment})
    os.chdir(str(request["cwd"]))
    return command


def main() -> None:
    """Serves the line whose descriptor is given; in a child, does what it was born for."""
    line = socket.socket(fileno=int(sys.argv[1]))
    before = set(os.environ)
    for name in IMPORTED:
        importlib.import_module(name)
    by_import = {name: value for name, value in os.environ.items() if name not in before}
    gc.collect()
    gc.freeze()
    command = _serve(line, by_import)
    if command is None:
        return
    if command[0] == "-m":
        sys.argv = command[1:]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(command)
        sys.path[0] = str(Path(command[0]).parent)
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main()
