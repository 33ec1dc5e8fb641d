"""A Tenure installation under test: real processes on this host, which tests start, stop and hurt.

Everything is waited for with a bound: ready files, log lines and the ends of processes. Children
read standard input and go when it ends, so none outlives the tests, however these end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.wire.nursery import NURSERY, Child

from tenure.v1 import access_pb2
from tenure_client import channel
from tenure_client.client import Client

#: How long anything may take before a test gives up. Generous: machines are slow and loaded.
PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 0.02

TENANT = "alpha"
#: The agent of an installation that tests share.
OF_HOUSE = "of-house"
HANDLERS = Path(__file__).with_name("handlers.py")
ROLES = {
    "viewer": access_pb2.ROLE_VIEWER,
    "submitter": access_pb2.ROLE_SUBMITTER,
    "agent": access_pb2.ROLE_AGENT,
    "admin": access_pb2.ROLE_TENANT_ADMIN,
    "operator": access_pb2.ROLE_OPERATOR,
}


async def until(
    holds: Callable[[], object], what: str, *, seconds: float = PATIENCE_SECONDS
) -> None:
    """Waits until something holds. Fails with `what` when it takes too long."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}"
        await asyncio.sleep(_LOOK_SECONDS)


class Process:
    """One child: its log goes to a file, its end is certain."""

    def __init__(self, name: str, folder: Path, module: str) -> None:
        self.name = name
        self.folder = folder
        self.log_file = folder / f"{name}.log"
        self.ready_file = folder / f"{name}.ready"
        #: Where it writes its log, when not into the file.
        self.output: int | None = None
        #: What starts it, without its arguments.
        self.command: Sequence[str] = (sys.executable, "-m", module)
        self._child: Child | subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def child(self) -> Child | subprocess.Popen[bytes]:
        """The process that was started last."""
        assert self._child is not None, f"{self.name} was never started"
        return self._child

    def spawn(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Starts the process without waiting for it. Its log goes on where it was."""
        self.ready_file.unlink(missing_ok=True)
        self.close()
        self._log = self.log_file.open("ab")
        program, *words = *self.command, *arguments
        stderr = self._log.fileno() if self.output is None else self.output
        environment = {**os.environ, **(environment or {})}
        # What the loader is told it reads where a program begins, and none begins at a birth.
        if program == sys.executable and "LD_PRELOAD" not in environment:
            self._child = NURSERY.bear(
                words, stdout=self._log.fileno(), stderr=stderr, env=environment, cwd=self.folder
            )
        else:
            self._child = subprocess.Popen(
                [program, *words],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=stderr,
                env=environment,
                cwd=self.folder,
            )

    def wait_ready(self) -> dict[str, Any]:
        """Waits for the ready file and gives what it says."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.ready_file.exists():
            assert time.monotonic() < deadline, f"{self.name} is not ready: {self.log_tail()}"
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self.child.wait(_LOOK_SECONDS)
                raise AssertionError(f"{self.name} ended with {code}: {self.log_tail()}")
        facts: dict[str, Any] = json.loads(self.ready_file.read_text())
        return facts

    def kill(self) -> None:
        """Kills it without a chance to say anything, as `kill -9` does."""
        self.child.kill()
        self.child.wait(PATIENCE_SECONDS)

    def pause(self) -> None:
        """Stops it where it stands (SIGSTOP)."""
        self.child.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Lets it go on after `pause`."""
        self.child.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Asks it to drain and end (SIGTERM)."""
        self.child.terminate()

    async def ended(self) -> int:
        """Waits for its end and gives its exit code."""
        await until(lambda: self.child.poll() is not None, f"{self.name} does not end")
        code: int | None = self.child.poll()
        assert code is not None
        return code

    def log_tail(self) -> str:
        """The end of what it wrote to its log."""
        return self.log_file.read_text(errors="replace")[-3000:]

    def log_lines(self) -> list[dict[str, Any]]:
        """All that it logged, in all its lives."""
        lines = self.log_file.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def logged(self, event: str, **fields: object) -> list[dict[str, Any]]:
        """The lines of one event, with these fields."""
        return [
            line
            for line in self.log_lines()
            if line["event"] == event and fields.items() <= line.items()
        ]

    def close(self) -> None:
        """Ends it for good."""
        if self._child is not None:
            if self._child.poll() is None:
                self._child.kill()
            self._child.wait(PATIENCE_SECONDS)
            assert self._child.stdin is not None
            self._child.stdin.close()
        if self._log is not None:
            self._log.close()


class Coordinator(Process):
    """A coordinator. Its address stays the same when it is started again."""

    def __init__(self, name: str, folder: Path, store: str, flags: Sequence[str]) -> None:
        super().__init__(name, folder, "tenure_server")
        self.address = ""
        self.credentials = folder / "credentials.json"
        self.signing_key = folder / "signing-key.json"
        self._store = store
        self._flags = list(flags)

    def launch(self) -> None:
        """Starts it without waiting for it."""
        self.spawn(
            "serve",
            *("--store", self._store, "--listen", self.address or "127.0.0.1:0"),
            *("--ready-file", str(self.ready_file), "--bootstrap", str(self.credentials)),
            *("--signing-key", str(self.signing_key)),
            *("--bootstrap-tenant", TENANT, "--exit-with-stdin", "--log-format", "json"),
            *self._flags,
        )

    def start(self) -> None:
        """Starts it and waits until it serves."""
        self.launch()
        self.address = self.wait_ready()["address"]


class Agent(Process):
    """An agent with the handlers of `handlers.py`."""

    def __init__(self, name: str, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(name, folder, "tenure_agent")
        shutil.copy(HANDLERS, folder / "handlers.py")

    def configure(self, addresses: Iterable[str], key: str, more: Mapping[str, Any]) -> None:
        """Writes its TOML file. `more` is for [agent], but `public_key` and `payloads`."""
        self.folder.joinpath("agent.key").write_text(key)
        settings: dict[str, Any] = {"name": self.name, "slots": 4, "stop_seconds": 0.5, **more}
        tls = settings.pop("tls", {})
        public_key = settings.pop("public_key", "")
        payloads = settings.pop("payloads", {})
        lines = ["[coordinator]", f"addresses = {json.dumps(list(addresses))}"]
        lines += [f"{word} = {json.dumps(str(value))}" for word, value in tls.items()]
        lines += [f'public_key = "{public_key}"'] if public_key else []
        lines += ['key_file = "agent.key"', "[agent]"]
        lines += [f"{word} = {json.dumps(value)}" for word, value in settings.items()]
        lines += ["[payloads]"] if payloads else []
        lines += [f"{word} = {json.dumps(value)}" for word, value in payloads.items()]
        self.folder.joinpath("agent.toml").write_text("\n".join(lines) + KINDS)

    def launch(self) -> None:
        """Starts it without waiting for it."""
        config = str(self.folder / "agent.toml")
        self.spawn(
            *("--config", config, "--ready-file", str(self.ready_file), "--exit-with-stdin"),
            *("--log-format", "json", "--log-level", "debug"),
            environment={"TENURE_TEST_PIDS": str(self.folder)},
        )

    def start(self) -> None:
        """Starts it and waits until it is welcome."""
        self.launch()
        self.wait_ready()


@dataclass(slots=True)
class Installation:
    """Coordinators on one store, agents, and keys for everybody."""

    folder: Path
    store: str
    flags: tuple[str, ...] = ()
    coordinators: list[Coordinator] = field(default_factory=list)
    agents: list[Agent] = field(default_factory=list)
    tls: channel.Tls | None = None
    #: What tests that share the installation made in it.
    seeds: dict[str, str] = field(default_factory=dict)
    _secrets: dict[tuple[str, tuple[str, ...]], str] = field(default_factory=dict)

    @property
    def coordinator(self) -> Coordinator:
        """The first coordinator."""
        return self.coordinators[0]

    def add_coordinator(self, *flags: str) -> Coordinator:
        """Makes one more coordinator on the store, not started yet."""
        name = f"coordinator-{len(self.coordinators) + 1}"
        made = Coordinator(name, self.folder, self.store, (*self.flags, *flags))
        self.coordinators.append(made)
        return made

    def public_keys(self) -> list[str]:
        """The verifier keys that its coordinators sign with, the oldest first."""
        keys = json.loads(self.coordinator.signing_key.read_text())["keys"]
        return [key["public"] for key in keys]

    async def agent_of_house(self) -> Agent:
        """The agent that tests share like the installation: nobody may kill, pause or stop it.

        It checks the mandates of its leases.
        """
        for agent in self.agents:
            if agent.name == OF_HOUSE:
                return agent
        return await self.add_agent(OF_HOUSE, slots=8, public_key=self.public_keys()[0])

    @contextlib.asynccontextmanager
    async def passing_agent(self, name: str, **settings: Any) -> AsyncIterator[Agent]:
        """An agent that is there for a while; nobody else may be called as it is."""
        agent = await self.add_agent(name, **settings)
        try:
            yield agent
        finally:
            agent.close()
            self.agents.remove(agent)

    async def add_agent(
        self, name: str = "", *, tenants: tuple[str, ...] = (TENANT,), **settings: Any
    ) -> Agent:
        """Starts an agent that knows every coordinator."""
        name = name or f"host-{len(self.agents) + 1}"
        agent = Agent(name, self.folder / name)
        secret = await self.secret("agent", *tenants)
        addresses = [coordinator.address for coordinator in self.coordinators]
        agent.configure(addresses, secret, settings)
        self.agents.append(agent)
        await asyncio.to_thread(agent.start)
        return agent

    def operator_secret(self) -> str:
        """The secret that the bootstrap wrote."""
        secret: str = json.loads(self.coordinator.credentials.read_text())["operator"]
        return secret

    async def secret(self, role: str, *tenants: str) -> str:
        """The secret of a key with one role, made when first asked for."""
        if role == "operator":
            return self.operator_secret()
        where = tenants or (TENANT,)
        if (role, where) not in self._secrets:
            async with self.client_with(self.operator_secret()) as operator:
                made = await operator.create_key(role, roles=[ROLES[role]], tenant_ids=where)
            self._secrets[role, where] = made.secret
        return self._secrets[role, where]

    async def add_tenant(self, tenant_id: str, **limits: Any) -> None:
        """Makes a tenant, or changes its limits when it is there."""
        async with self.client_with(self.operator_secret()) as operator:
            known = {tenant.tenant_id async for tenant in operator.list_tenants()}
            if tenant_id not in known:
                await operator.create_tenant(tenant_id, **limits)
            else:
                await operator.update_tenant(tenant_id, **limits)

    def client_with(self, secret: str, **settings: Any) -> Client:
        """A client with any key."""
        addresses = [each.address for each in self.coordinators if each.address]
        return Client(addresses, secret, tls=self.tls, **settings)

    @contextlib.asynccontextmanager
    async def client(
        self, role: str = "admin", *tenants: str, **settings: Any
    ) -> AsyncIterator[Client]:
        """A client with a key of one role."""
        async with self.client_with(await self.secret(role, *tenants), **settings) as client:
            yield client

    @contextlib.asynccontextmanager
    async def client_at(
        self, coordinator: Coordinator, role: str = "admin"
    ) -> AsyncIterator[Client]:
        """A client of one coordinator, which tries everything once. Refused, it goes elsewhere."""
        secret = await self.secret(role)
        async with Client(coordinator.address, secret, tls=self.tls, retry_seconds=0) as client:
            yield client

    def close(self) -> None:
        """Ends every process."""
        for process in (*self.agents, *self.coordinators):
            process.close()


KINDS = """
[[python]]
kind = "hold"
function = "handlers:hold"
[[python]]
kind = "hold-async"
function = "handlers:hold_async"
[[python]]
kind = "deaf"
function = "handlers:deaf"
[[python]]
kind = "deaf-async"
function = "handlers:deaf_async"
[[python]]
kind = "fail-until"
function = "handlers:fail_until"
[[python]]
kind = "add-up"
function = "handlers:add_up"
[[python]]
kind = "count"
function = "handlers:count"
[[python]]
kind = "exit"
function = "handlers:leave"
[[python]]
kind = "loud"
function = "handlers:loud"
[[python]]
kind = "big"
function = "handlers:big"
[[python]]
kind = "speak"
function = "handlers:speak"
[[python]]
kind = "measure"
function = "handlers:measure"
[[command]]
kind = "kill-itself"
argv = ["sh", "-c", "kill -9 $$"]
[[command]]
kind = "loud-command"
argv = ["sh", "-c", "head -c 5000000 /dev/zero >&2; yes 1"]
[[command]]
kind = "hold-command"
argv = ["sh", "-c", "sleep 300 & echo $$ > \\"$TENURE_TEST_PIDS/$TENURE_TASK_KEY\\"; wait"]
env = ["PATH", "TENURE_TEST_PIDS"]
[[command]]
kind = "double-command"
argv = ["sh", "-c", "sed -E 's/.*\\"input\\":([0-9]+).*/\\\\1\\\\1/'"]
"""
