"""A coordinator and an agent, each in a process of its own, in a directory that goes with them."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import Load
from benchmarks.processes import Child, ProcessError
from tenure_client import channel

TENANT = "bench"
AGENT = "bench"
SLOTS = 256

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

    def __init__(self, folder: Path, store: str) -> None:
        self.folder = folder
        self.store = store
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
            "tenure_server",
            *("serve", "--store", self.store, "--listen", self.address or "127.0.0.1:0"),
            *("--signing-key", str(self.folder / "signing-key.json")),
            *("--bootstrap", str(self._credentials), "--bootstrap-tenant", TENANT),
        )

    async def coordinator_ready(self) -> None:
        """Waits until it serves. Raises ProcessError."""
        self.address = str((await self.coordinator.ready())["address"])

    async def start_agent(self, *, slots: int = SLOTS) -> None:
        """Starts it and waits until the coordinator has welcomed it."""
        key_file = self.folder / "agent.key"
        key_file.write_text(self.key("agent"))
        key_file.chmod(0o600)
        self.agent.spawn(
            "tenure_agent",
            *("--address", self.address, "--key-file", str(key_file), "--name", AGENT),
            *("--slots", str(slots), "--spool", str(self.folder / "spool")),
        )
        await self.agent.ready()

    @contextlib.asynccontextmanager
    async def load(self, role: str = "admin") -> AsyncIterator[Load]:
        """A load generator in this process, with the key of a role."""
        async with channel.open_channel(channel.Endpoint(self.address)) as line:
            yield Load(line, channel.metadata(self.key(role)))

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
async def installed(new_store: NewStore) -> AsyncIterator[Installation]:
    """An installation whose coordinator serves. Everything of it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tenure-bench-"))
    installation = Installation(folder, new_store(folder))
    try:
        await installation.start_coordinator()
        yield installation
    finally:
        installation.kill()
        shutil.rmtree(folder, ignore_errors=True)
