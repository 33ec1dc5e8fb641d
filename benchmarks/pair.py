"""Two coordinators on one PostgreSQL, each with the seats of half of the tenants, and one agent."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from benchmarks.installation import Installation, NewStore
from benchmarks.load import Load
from benchmarks.processes import Child
from tenure.v1 import access_pb2
from tenure_client import channel
from tenure_client.client import Client

TENANTS = ("north-1", "south-1", "north-2", "south-2")


class Pair(Installation):
    """One or two coordinators. The seats of tenants in odd places of `TENANTS` are the second's.

    With one coordinator everything is the same, but that it has all seats.
    """

    def __init__(self, folder: Path, store: str, coordinators: int) -> None:
        super().__init__(folder, store)
        self.second = Child("second", folder) if coordinators > 1 else None
        self.second_address = ""
        self.keys: dict[str, str] = {}

    @property
    def addresses(self) -> Sequence[str]:
        """Where agents are told to go."""
        return [address for address in (self.address, self.second_address) if address]

    async def open(self) -> None:
        """Starts the coordinators, and makes tenants and keys."""
        await self.start_coordinator()
        if self.second is not None:
            self.second.spawn(
                "tenure_server",
                *("serve", "--store", self.store, "--listen", "127.0.0.1:0"),
                *("--signing-key", str(self.folder / "signing-key.json")),
            )
            self.second_address = str((await self.second.ready())["address"])
        for tenant_id in TENANTS:
            await self.add_tenant(tenant_id)
        roles = {"admin": access_pb2.ROLE_TENANT_ADMIN, "agent": access_pb2.ROLE_AGENT}
        async with Client(self.address, self.key("operator")) as operator:
            for name, role in roles.items():
                made = await operator.create_key(name, roles=[role], tenant_ids=TENANTS)
                self.keys[name] = made.secret

    async def add_tenant(self, tenant_id: str) -> None:
        """Makes a tenant. Who makes it takes its seat."""
        async with Client(self.holder_of(tenant_id), self.key("operator")) as operator:
            await operator.create_tenant(tenant_id)

    def holder_of(self, tenant_id: str) -> str:
        """The address of who has the tenant's seat."""
        return (tenant_id.startswith("south") and self.second_address) or self.address

    def other_than(self, address: str) -> str:
        """The address of the other coordinator, of the only one where there is one."""
        return next((one for one in self.addresses if one != address), address)

    @contextlib.asynccontextmanager
    async def load_at_holder(self, tenant_id: str) -> AsyncIterator[Load]:
        """A load generator that calls the holder of the tenant's seat."""
        endpoint = channel.Endpoint(self.holder_of(tenant_id))
        async with channel.open_channel(endpoint) as line:
            yield Load(line, channel.metadata(self.keys["admin"], tenant=tenant_id))

    def children(self) -> list[Child]:
        """The coordinators."""
        return [self.coordinator, *([] if self.second is None else [self.second])]

    async def stop(self) -> int:
        """Drains everything, and gives how many transactions all coordinators committed."""
        commits = await super().stop()
        if self.second is not None:
            await self.second.stop()
            commits += int(self.second.logged("stopped")[-1]["commits"])
        return commits

    def kill(self) -> None:
        """Ends whatever still runs."""
        super().kill()
        if self.second is not None:
            self.second.kill()


@contextlib.asynccontextmanager
async def opened(new_store: NewStore, coordinators: int) -> AsyncIterator[Pair]:
    """A pair that serves. Everything of it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tenure-bench-"))
    pair = Pair(folder, new_store(folder), coordinators)
    try:
        await pair.open()
        yield pair
    finally:
        pair.kill()
        shutil.rmtree(folder, ignore_errors=True)
