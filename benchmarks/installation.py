"""A coordinator and an agent, each in a process of its own, in a directory that goes with them."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import Load
from benchmarks.processes import Child, ProcessError
from tenure.v1 import access_pb2
from tenure_client import channel
from tenure_client.client import Client

TENANT = "bench"
AGENT = "bench"
SLOTS = 256
COORDINATOR = "tenure_server"

#: Gives the URL of a fresh, empty store, for an installation in a directory.
NewStore = Callable[[Path], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the processes had used at one moment: CPU time since their start, in seconds."""

    coordinator_seconds: float
    agent_seconds: float

    def since(self, before: Usage) -> Usage:
        """What was used between two moments."""
        return Usage(
            coordinator_seconds=round(self.coordinator_seconds - before.coordinator_seconds, 6),
            agent_seconds=round(self.agent_seconds - before.agent_seconds, 6),
        )


class Installation:
    """One coordinator, at most one agent. Make it with `installed`."""

    def __init__(self, folder: Path, store: str, program: str = COORDINATOR) -> None:
        """`program` is the module that the coordinator is started with."""
        self.folder = folder
        self.store = store
        self._program = program
        self.coordinator = Child("coordinator", folder)
        self.agent = Child("agent", folder)
        self.address = ""

    async def start_coordinator(self) -> None:
        """Starts it on the store, on the address of its last life if it had one."""
        self.spawn_coordinator()
        await self.coordinator_ready()

    def spawn_coordinator(self) -> None:
        """Starts it without waiting until it serves."""
        self.coordinator.spawn(
            self._program,
            *("serve", "--store", self.store, "--listen", self.address or "127.0.0.1:0"),
            *("--signing-key", str(self.folder / "signing-key.json")),
            *("--bootstrap", str(self._credentials), "--bootstrap-tenant", TENANT),
        )

    async def coordinator_ready(self) -> None:
        """Waits until it serves. Raises ProcessError."""
        self.address = str((await self.coordinator.ready())["address"])

    @property
    def addresses(self) -> Sequence[str]:
        """Where agents are told to go."""
        return [self.address]

    async def start_agent(self, *, slots: int = SLOTS, key: str = "") -> None:
        """Starts it and waits until the coordinator has welcomed it.

        `key` is that of an agent of other tenants than the one that is there from the start.
        """
        key_file = self.folder / "agent.key"
        key_file.write_text(key or self.key("agent"))
        key_file.chmod(0o600)
        self.agent.spawn(
            "tenure_agent",
            *(word for address in self.addresses for word in ("--address", address)),
            *("--key-file", str(key_file), "--name", AGENT),
            *("--slots", str(slots), "--spool", str(self.folder / "spool")),
        )
        await self.agent.ready()

    @contextlib.asynccontextmanager
    async def load(self, role: str = "admin") -> AsyncIterator[Load]:
        """A load generator in this process, with the key of a role."""
        async with channel.open_channel(channel.Endpoint(self.address)) as line:
            yield Load(line, channel.metadata(self.key(role)))

    @contextlib.asynccontextmanager
    async def load_of(self, secret: str, tenant_id: str) -> AsyncIterator[Load]:
        """A load generator with any key, in one tenant."""
        async with channel.open_channel(channel.Endpoint(self.address)) as line:
            yield Load(line, channel.metadata(secret, tenant=tenant_id))

    async def add_tenants(self, tenant_ids: Sequence[str]) -> Mapping[str, str]:
        """Makes tenants, and gives a key for all of them of each role that is needed."""
        async with Client(self.address, self.key("operator")) as operator:
            for tenant_id in tenant_ids:
                await operator.create_tenant(tenant_id)
            roles = {"admin": access_pb2.ROLE_TENANT_ADMIN, "agent": access_pb2.ROLE_AGENT}
            return {
                name: (await operator.create_key(name, roles=[role], tenant_ids=tenant_ids)).secret
                for name, role in roles.items()
            }

    def key(self, role: str) -> str:
        """One of the keys that the coordinator made for itself."""
        keys: Mapping[str, str] = json.loads(self._credentials.read_bytes())
        return keys[role]

    def usage(self) -> Usage:
        """What both processes have used until now."""
        return Usage(
            coordinator_seconds=self.coordinator.cpu_seconds(),
            agent_seconds=self.agent.cpu_seconds(),
        )

    async def stop(self) -> int:
        """Drains both, and gives how many transactions the coordinator's last life committed."""
        await self.agent.stop()
        await self.coordinator.stop()
        stopped = self.coordinator.logged("stopped")
        if not stopped or "commits" not in stopped[-1]:
            raise ProcessError("the coordinator did not say how many commits it made")
        return int(stopped[-1]["commits"])

    def kill(self) -> None:
        """Ends whatever still runs."""
        self.agent.kill()
        self.coordinator.kill()

    @property
    def _credentials(self) -> Path:
        return self.folder / "credentials.json"


@contextlib.asynccontextmanager
async def installed(new_store: NewStore, program: str = COORDINATOR) -> AsyncIterator[Installation]:
    """An installation whose coordinator serves. Everything of it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tenure-bench-"))
    installation = Installation(folder, new_store(folder), program)
    try:
        await installation.start_coordinator()
        yield installation
    finally:
        installation.kill()
        shutil.rmtree(folder, ignore_errors=True)
