"""An installation to be hurt: coordinators behind proxies, real agents, keys of several tenants."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.proxy import Proxy
from tests.wire.installation import Agent, Coordinator, Installation

from tenure.v1 import workflows_pb2
from tenure_client.builder import Retry, Workflow
from tenure_client.client import Client

LEASE_SECONDS = 2.0
ACCEPT_SECONDS = 1.0
SEAT_SECONDS = 1.5
FLAGS = (
    *("--lease-seconds", f"{LEASE_SECONDS}", "--accept-seconds", f"{ACCEPT_SECONDS}"),
    *("--seat-seconds", f"{SEAT_SECONDS}"),
)
#: The tenants and their limits; the first is made by the bootstrap.
TENANTS = {"alpha": 4, "beta": 3}
#: What only agents of ours do, which are looked over the shoulder.
KIND = "chaos"
REAL_SLOTS = 2
#: Below the ports that the system gives to outgoing lines, so that none takes ours meanwhile.
_PORTS = (20_000, 32_000)


class Fronted(Coordinator):
    """A coordinator that everybody reaches through a proxy."""

    def __init__(
        self, name: str, folder: Path, store: str, flags: Sequence[str], proxy: Proxy, port: int
    ) -> None:
        super().__init__(name, folder, store, [*flags, "--address", proxy.address])
        self.proxy = proxy
        #: What its process needs in its environment.
        self.environment: dict[str, str] = {}
        self._port = port

    def spawn(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Starts the process in its environment."""
        super().spawn(*arguments, environment={**self.environment, **(environment or {})})

    def launch(self) -> None:
        """Starts it without waiting for it, on its own port."""
        self.address = f"127.0.0.1:{self._port}"
        super().launch()
        self.address = self.proxy.address


@dataclass(slots=True)
class Site:
    """One installation and the agents that are processes of their own."""

    folder: Path
    store: str
    chance: random.Random
    coordinators: list[Fronted] = field(default_factory=list)
    agents: list[Agent] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    installation: Installation = field(init=False)

    async def open(self, coordinators: int, agents: int) -> None:
        """Starts coordinators and agents, and makes tenants, keys and workflows."""
        self.installation = Installation(self.folder, self.store, FLAGS)
        for number in range(1, coordinators + 1):
            port = _free_port(self.chance)
            proxy = Proxy(port)
            await proxy.start()
            name = f"coordinator-{number}"
            made = Fronted(name, self.folder, self.store, FLAGS, proxy, port)
            made.environment = dict(self.environment)
            self.coordinators.append(made)
            self.installation.coordinators.append(made)
            await asyncio.to_thread(made.start)
        for tenant, limit in TENANTS.items():
            await self.installation.add_tenant(tenant, max_leases=limit)
        for tenant in TENANTS:
            self.keys[tenant] = await self.installation.secret("admin", tenant)
            async with self.client(tenant) as admin:
                for definition in workflows():
                    await admin.register_workflow(definition)
        for number in range(1, agents + 1):
            name = f"real-{number}"
            agent = await self.installation.add_agent(
                name, tenants=self.tenants_of(number), slots=REAL_SLOTS
            )
            self.agents.append(agent)

    def tenants_of(self, number: int) -> tuple[str, ...]:
        """The tenants of an agent: all of them, where one coordinator decides for all of them.

        Seats that lie with several keep an agent of several tenants off the line: that is known,
        and has a test of its own.
        """
        names = tuple(TENANTS)
        return names if len(self.coordinators) == 1 else (names[number % len(names)],)

    @property
    def addresses(self) -> list[str]:
        """Where the coordinators are reached."""
        return [coordinator.address for coordinator in self.coordinators]

    def client(self, tenant: str, *, retry_seconds: float = 30.0) -> Client:
        """A client with the key of a tenant's admin."""
        addresses = self.addresses
        self.chance.shuffle(addresses)
        return Client(addresses, self.keys[tenant], retry_seconds=retry_seconds, call_seconds=3.0)

    async def close(self) -> None:
        """Ends every process and every line."""
        await asyncio.to_thread(self.installation.close)
        for coordinator in self.coordinators:
            await coordinator.proxy.close()


def workflows() -> list[workflows_pb2.WorkflowDefinition]:
    """A diamond of tasks of both kinds of agents, and a narrow fan of those of ours."""
    again = Retry(max_attempts=3, initial_delay=0.05)
    with Workflow("diamond") as diamond:
        first = diamond.task("first", kind=KIND, retry=again)
        middle = [
            diamond.task("seen", kind=KIND, after=[first], retry=again),
            diamond.task("also-seen", kind=KIND, after=[first], retry=again),
            diamond.task("unseen", kind="tenure.trace", input={"seconds": 0.02}, after=[first]),
        ]
        diamond.task("last", kind=KIND, after=middle, retry=again)
    with Workflow("narrow", max_leases=2) as narrow:
        for number in range(4):
            narrow.task(f"fan-{number}", kind=KIND, retry=again)
    return [diamond.definition(), narrow.definition()]


def _free_port(chance: random.Random) -> int:
    while True:
        port = chance.randrange(*_PORTS)
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
