"""An installation to be hurt: coordinators behind proxies, real agents, keys of several tenants."""

from __future__ import annotations

import asyncio
import random
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.duration_pb2 import Duration
from tests.chaos import flows
from tests.chaos.proxy import Proxy
from tests.wire.installation import ROLES, TENANT, Agent, Coordinator, Installation

from tenure.v1 import schedules_pb2, workflows_pb2
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
_SKEWED = Path(__file__).with_name("skewed.py")
#: The unit of the spans in workflows that declare more than graphs.
UNIT_SECONDS = 0.4
#: The schedules of each tenant by their overlap policies, and how often they fire.
OVERLAPS = {"alpha": ("SKIP", "BUFFER_ALL", "CANCEL_RUNNING"), "beta": ("BUFFER_ONE", "ALLOW_ALL")}
EVERY_SECONDS = 2
#: A clock that is set forward by hours has no more than these fires made up for; all the others are
#: one line of the history.
CATCHUP_SECONDS = 60
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
        self._clock = folder / f"{name}.clock"
        self.set_clock(0)
        self.command = (sys.executable, str(_SKEWED), str(self._clock))

    def spawn(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Starts the process in its environment."""
        super().spawn(*arguments, environment={**self.environment, **(environment or {})})

    def set_clock(self, ahead_seconds: int) -> None:
        """Sets the clock of its machine so far ahead of ours, or back."""
        new = self._clock.with_suffix(".new")
        new.write_text(str(ahead_seconds))
        new.replace(self._clock)

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
    #: Of each tenant's people by name; an empty one stands for its admin.
    keys: dict[tuple[str, str], str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    installation: Installation = field(init=False)

    async def open(self, coordinators: int, agents: int) -> None:
        """Starts coordinators and agents, and makes tenants, keys and workflows."""
        self.installation = Installation(self.folder, self.store, FLAGS)
        for number in range(1, coordinators + 1):
            port = free_port()
            proxy = Proxy(port)
            await proxy.start()
            name = f"coordinator-{number}"
            made = Fronted(name, self.folder, self.store, FLAGS, proxy, port)
            made.environment = dict(self.environment)
            self.coordinators.append(made)
            self.installation.coordinators.append(made)
            await asyncio.to_thread(made.start)
        for number, (tenant, limit) in enumerate(TENANTS.items()):
            await self._add_tenant(tenant, limit, self.coordinators[number % coordinators])
        for tenant in TENANTS:
            await self._furnish(tenant)
        for number in range(1, agents + 1):
            name = f"real-{number}"
            agent = await self.installation.add_agent(
                name, tenants=tuple(TENANTS), slots=REAL_SLOTS
            )
            self.agents.append(agent)

    async def _furnish(self, tenant: str) -> None:
        """Makes keys for a tenant's people, and its workflows and schedules."""
        self.keys[tenant, ""] = await self.installation.secret("admin", tenant)
        async with self.installation.client_with(self.installation.operator_secret()) as operator:
            for name in flows.APPROVERS:
                role = [ROLES["submitter"]]
                made = await operator.create_key(name, roles=role, tenant_ids=[tenant])
                self.keys[tenant, name] = made.secret
        async with self.client(tenant) as admin:
            for definition in (*workflows(), *flows.flows(UNIT_SECONDS, KIND)):
                await admin.register_workflow(definition)
            for overlap in OVERLAPS[tenant]:
                every = schedules_pb2.IntervalTimes(every=Duration(seconds=EVERY_SECONDS))
                spec = schedules_pb2.ScheduleSpec(
                    times=schedules_pb2.FireTimes(intervals=[every]),
                    start=schedules_pb2.ScheduledStart(workflow=flows.TICK),
                    overlap=schedules_pb2.OverlapPolicy.Value(f"OVERLAP_POLICY_{overlap}"),
                    catchup_window=Duration(seconds=CATCHUP_SECONDS),
                )
                await admin.schedules.create(overlap.lower(), spec)
            # A log that spans hours and that nobody signed is taken for one that was forged.
            await admin.evidence.checkpoint()

    async def _add_tenant(self, tenant: str, limit: int, coordinator: Fronted) -> None:
        """Makes a tenant, or gives one its limit. Who makes it takes its seat."""
        if tenant != TENANT:
            secret = self.installation.operator_secret()
            async with Client(coordinator.address, secret) as operator:
                await operator.create_tenant(tenant, max_leases=limit)
        await self.installation.add_tenant(tenant, max_leases=limit)

    def tenants_of(self, number: int) -> tuple[str, ...]:
        """The tenants of an agent of ours: all of them, where one coordinator decides for all of
        them. It has one stream, unlike the agents that are processes.
        """
        names = tuple(TENANTS)
        return names if len(self.coordinators) == 1 else (names[number % len(names)],)

    def divided_lines(self) -> int:
        """How often an agent came onto the line of a coordinator that had not all seats."""
        lines = [line for one in self.agents for line in one.logged("agent is on the line")]
        return sum(len(line["tenants"]) < len(TENANTS) for line in lines)

    @property
    def addresses(self) -> list[str]:
        """Where the coordinators are reached."""
        return [coordinator.address for coordinator in self.coordinators]

    def client(self, tenant: str, name: str = "", *, retry_seconds: float = 30.0) -> Client:
        """A client with the key of one of a tenant's people, its admin's where nobody is named."""
        addresses, key = self.addresses, self.keys[tenant, name]
        self.chance.shuffle(addresses)
        return Client(addresses, key, retry_seconds=retry_seconds, call_seconds=3.0)

    async def close(self) -> None:
        """Ends every process and every line."""
        await asyncio.to_thread(self.installation.close)
        for coordinator in self.coordinators:
            await coordinator.proxy.close()


def workflows() -> list[workflows_pb2.WorkflowDefinition]:
    """A diamond of tasks of both kinds of agents, a narrow fan of those of ours, and a wide one of
    those of the processes, which on PostgreSQL serve tenants of several coordinators.
    """
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
    with Workflow("wide") as wide:
        for number in range(6):
            wide.task(f"unseen-{number}", kind="tenure.trace", input={"seconds": 0.05})
    return [diamond.definition(), narrow.definition(), wide.definition()]


def free_port() -> int:
    """A port that nobody listens on now.

    Not by the seed: a campaign that repeats another may run beside it.
    """
    while True:
        port = random.SystemRandom().randrange(*_PORTS)
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
