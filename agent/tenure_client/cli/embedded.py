"""Coordinator and agent as children of this process, for `tenure dev`.

They are started as anybody would start them, and met on the wire only. Their standard input is a
pipe from here: when this process ends, however it ends, the pipe does too, and they drain and go.
They have a session of their own, so that Ctrl-C reaches this process alone, which stops them in
order: first the agent, then the coordinator.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from tenure_client.client import Client

AGENT_NAME = "dev"
TENANT = "dev"
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 45.0
_POLL_SECONDS = 0.01
#: Settings of another coordinator must not leak into this one.
_FOREIGN_PREFIX = "TENURE_SERVER_"


class EmbeddedError(Exception):
    """A child did not start, or ended by itself. The message says what its log says."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process that was started here."""

    name: str
    process: asyncio.subprocess.Process
    log: Path
    #: Where its own lines begin: the log may hold those of an earlier process.
    log_offset: int
    ready_file: Path

    async def ready(self) -> dict[str, Any]:
        """Waits until it serves, and gives its ready file. Raises EmbeddedError."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_SECONDS_MAX
        while not self.ready_file.exists():
            if self.process.returncode is not None:
                raise self.error("did not start")
            if loop.time() > deadline:
                raise self.error(f"did not start within {START_SECONDS_MAX:.0f} s")
            await asyncio.sleep(_POLL_SECONDS)
        facts: dict[str, Any] = orjson.loads(self.ready_file.read_bytes())
        return facts

    async def ended(self) -> EmbeddedError:
        """Waits until it ends by itself."""
        code = await self.process.wait()
        return self.error(f"ended with exit code {code}")

    async def stop(self, *, hurry: bool) -> None:
        """Lets it drain and waits for its end; kills it when that takes too long.

        With `hurry` it stops what runs instead of waiting for it.
        """
        if self.process.stdin is not None:
            self.process.stdin.close()
        if hurry:
            self.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()

    def terminate(self) -> None:
        """Asks for its end once more; an agent that drains already lets go of what runs."""
        if self.process.returncode is None:
            self.process.terminate()

    def error(self, what: str) -> EmbeddedError:
        """Makes an error out of what happened and the last line of the log."""
        said = _last_line(self.log, self.log_offset)
        return EmbeddedError(f"the {self.name} {what}{f': {said}' if said else ''}")


class Embedded:
    """A coordinator and an agent that live in a directory of their own. Use `async with`.

    Making one makes the directory; OSError says why it cannot.
    """

    def __init__(self, data: Path) -> None:
        self.data = data.absolute()
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.address = ""
        self.agent_id = ""
        self._hurry = False
        self._children: list[Child] = []
        self._stopping: list[Child] = []

    @property
    def credentials(self) -> Path:
        """The file with the keys that the coordinator made for itself."""
        return self.data / "credentials.json"

    async def __aenter__(self) -> Embedded:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping, self._children = self._children, []
        for child in reversed(self._stopping):
            await child.stop(hurry=self._hurry or error is not None)

    def stop_now(self) -> None:
        """Makes children stop what runs instead of waiting for it."""
        self._hurry = True
        for child in self._stopping:
            child.terminate()

    async def start_coordinator(self, listen: str, *more: str) -> None:
        """Starts the coordinator on the data directory and waits until it serves.

        `more` are options beside those that every embedded coordinator has.
        """
        arguments = ["serve", *more, "--store", f"sqlite:///{self.data / 'tenure.db'}"]
        arguments += ["--listen", listen]
        arguments += ["--bootstrap", str(self.credentials), "--bootstrap-tenant", TENANT]
        child = await self._spawn("coordinator", "tenure_server", "server", arguments)
        self.address = str((await child.ready())["address"])

    async def start_agent(self, *, config: Path | None, slots: int | None) -> None:
        """Starts the agent and waits until the coordinator has welcomed it.

        `config` is the TOML file with its handlers; without one it has the built-in kinds only. The
        agent executes only what this coordinator signs. Raises TenureError.
        """
        async with self.client() as client:
            keys = await client.evidence.signing_keys()
        key_file = self.data / "agent.key"
        _write_private(key_file, self._credential("agent"))
        arguments = [] if config is None else ["--config", str(config)]
        arguments += ["--address", self.address, "--key-file", str(key_file)]
        arguments += ["--name", AGENT_NAME, "--spool", str(self.data / "spool")]
        arguments += ["--public-key", keys.root_key]
        if slots is not None:
            arguments += ["--slots", str(slots)]
        child = await self._spawn("agent", "tenure_agent", "agent", arguments)
        self.agent_id = str((await child.ready()).get("agent_id", ""))

    def client(self) -> Client:
        """Opens a client with the tenant admin's key."""
        return Client(self.address, self._credential("admin"), tenant=TENANT)

    def operator_key(self) -> str:
        """The key that makes tenants. Raises EmbeddedError."""
        return self._credential("operator")

    @contextlib.asynccontextmanager
    async def unless_broken(self) -> AsyncIterator[None]:
        """Ends what stands within when a child ends by itself. Raises EmbeddedError then."""
        inside = asyncio.current_task()
        assert inside is not None
        errors: list[EmbeddedError] = []

        async def guard() -> None:
            errors.append(await self._broken())
            inside.cancel()

        guarding = asyncio.create_task(guard())
        try:
            yield
        except asyncio.CancelledError:
            if errors:
                inside.uncancel()
                raise errors[0] from None
            raise
        finally:
            guarding.cancel()

    async def _broken(self) -> EmbeddedError:
        """Waits until a child ends that was not told to."""
        ends = [asyncio.create_task(child.ended()) for child in self._children]
        try:
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for end in ends:
                end.cancel()

    def _credential(self, name: str) -> str:
        try:
            return str(orjson.loads(self.credentials.read_bytes())[name])
        except (OSError, ValueError, KeyError) as error:
            raise EmbeddedError(
                f"{self.credentials}: the keys of this data directory are lost or unreadable; "
                "use another directory"
            ) from error

    async def _spawn(self, name: str, module: str, stem: str, arguments: Sequence[str]) -> Child:
        # The name is this process's own: another one may be looking at the same directory.
        ready_file = self.data / f"{stem}-{os.getpid()}.ready"
        ready_file.unlink(missing_ok=True)
        log = self.data / f"{stem}.log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # else a module in the current directory could stand in for one of ours
                "-m",
                module,
                *arguments,
                "--ready-file",
                str(ready_file),
                "--exit-with-stdin",
                "--log-format",
                "json",
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={
                    word: text
                    for word, text in os.environ.items()
                    if not word.startswith(_FOREIGN_PREFIX)
                },
            )
            child = Child(name, process, log, output.tell(), ready_file)
        self._children.append(child)
        return child


def _write_private(path: Path, secret: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")


def _last_line(log: Path, offset: int) -> str:
    """Gives what a log says last: a plain line, or the event and the reason of a JSON one."""
    with log.open("rb") as file:
        file.seek(offset)
        lines = [line for line in file.read().splitlines() if line.strip()]
    if not lines:
        return ""
    try:
        entry = orjson.loads(lines[-1])
    except orjson.JSONDecodeError:
        text = lines[-1].decode(errors="replace").strip()
        for prefix in ("tenure-server: ", "tenure-agent: ", "Error: "):
            text = text.removeprefix(prefix)
        return text
    if not isinstance(entry, dict):
        return ""
    words = (entry.get("event"), entry.get("reason") or entry.get("error"))
    return ": ".join(str(word) for word in words if word)
