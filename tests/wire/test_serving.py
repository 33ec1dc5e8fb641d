"""How a coordinator is reached: TLS, health, reflection, channelz, and how it leaves."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.wire.conftest import Install
from tests.wire.installation import Installation, until

from tenure.v1 import runs_pb2
from tenure_client import channel
from tenure_client.builder import Workflow
from tenure_client.client import Client
from tenure_client.errors import TenureError

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = {f"tenure.v1.{name}" for name in ("Workflows", "Runs", "Agents", "Tenants")}


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that lives for one test."""

    folder: Path
    name: x509.Name
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, folder: Path, name: str) -> Authority:
        """Makes an authority and writes its certificate."""
        called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        authority = cls(folder, called, ec.generate_private_key(ec.SECP256R1()))
        authority._write(name, authority.name, authority.key, authority=True)
        return authority

    def issue(self, name: str) -> None:
        """Writes a certificate and a key for this host."""
        called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        key = ec.generate_private_key(ec.SECP256R1())
        self._write(name, called, key, authority=False)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self.folder.joinpath(f"{name}.key").write_bytes(pem)

    def _write(
        self, name: str, called: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool
    ) -> None:
        now = dt.datetime.now(dt.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(called)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.folder.joinpath(f"{name}.pem").write_bytes(pem)


def one_task() -> Any:
    """A workflow of one task that does nothing."""
    with Workflow("one") as workflow:
        workflow.task("only", kind="tenure.noop")
    return workflow.definition()


async def run_one(client: Client) -> None:
    """Has a workflow done from one end to the other."""
    await client.register_workflow(one_task())
    started = await client.start_run("one")
    assert (await client.wait_run(started.run_id)).state == runs_pb2.RUN_STATE_SUCCEEDED


async def refused_line(address: str, secret: str, tls: channel.Tls | None) -> None:
    """Wants no call to come through."""
    async with Client(address, secret, tls=tls, retry_seconds=0) as client:
        with pytest.raises(TenureError) as refused:
            await client.get_caller()
    assert refused.value.code is grpc.StatusCode.UNAVAILABLE
    assert not refused.value.reason, "no coordinator said that"


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual tls"])
async def test_clients_and_agents_speak_tls(mutual: bool, install: Install, tmp_path: Path) -> None:
    """And whoever does not, or trusts or shows the wrong certificate, gets nowhere."""
    ours = Authority.make(tmp_path, "ours")
    theirs = Authority.make(tmp_path, "theirs")
    for authority, name in ((ours, "server"), (ours, "caller"), (theirs, "stranger")):
        authority.issue(name)
    server = ["--tls-cert", f"{tmp_path}/server.pem", "--tls-key", f"{tmp_path}/server.key"]
    if mutual:
        server += ["--tls-client-ca", f"{tmp_path}/ours.pem"]
    shown = {"cert": tmp_path / "caller.pem", "key": tmp_path / "caller.key"} if mutual else {}
    tls = channel.Tls(ca=tmp_path / "ours.pem", **shown)
    installation = install(*server)
    installation.tls = tls
    files = {"tls_ca": tls.ca} | {f"tls_{word}": path for word, path in shown.items()}
    await installation.add_agent(tls=files)
    async with installation.client() as client:
        await run_one(client)
    address, secret = installation.coordinator.address, await installation.secret("admin")
    await refused_line(address, secret, None)
    await refused_line(address, secret, channel.Tls(ca=tmp_path / "theirs.pem"))
    if mutual:
        stranger = {"cert": tmp_path / "stranger.pem", "key": tmp_path / "stranger.key"}
        await refused_line(address, secret, channel.Tls(ca=tls.ca))
        await refused_line(address, secret, channel.Tls(ca=tls.ca, **stranger))


async def test_health_and_reflection_are_open_and_channelz_is_the_operators(
    house: Installation,
) -> None:
    """The first two need no key and tell of the contract's services; channelz shows all callers."""
    endpoint = channel.Endpoint(house.coordinator.address)
    async with channel.open_channel(endpoint) as line:
        health: Any = health_pb2_grpc.HealthStub(line)
        for name in ("", *SERVICES):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == SERVING
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(line)  # type: ignore[arg-type]
        listed = [answer async for answer in reflection.ServerReflectionInfo(iter([asked]))]
        assert {each.name for each in listed[0].list_services_response.service} >= SERVICES
        channels: Any = channelz_pb2_grpc.ChannelzStub(line)  # type: ignore[arg-type]
        for secret in ("", await house.secret("admin")):
            metadata = channel.metadata(secret) if secret else ()
            with pytest.raises(grpc.aio.AioRpcError):
                await channels.GetServers(channelz_pb2.GetServersRequest(), metadata=metadata)
        servers = await channels.GetServers(
            channelz_pb2.GetServersRequest(), metadata=channel.metadata(house.operator_secret())
        )
        assert servers.server[0].data.calls_started > 0


async def test_a_coordinator_that_is_told_to_stop_drains_and_nothing_is_lost(
    install: Install, tmp_path: Path
) -> None:
    """Watchers of health hear of it, calls get an answer, agents come back after the restart."""
    installation = install()
    agent = await installation.add_agent(slots=2)
    coordinator = installation.coordinator
    with Workflow("holding") as workflow:
        held = workflow.task("held", kind="hold", input=str(tmp_path))
        workflow.task("after", kind="tenure.noop", after=[held])
    async with installation.client() as client:
        await client.register_workflow(workflow.definition())
        started = await client.start_run("holding")
        await until((tmp_path / "held.1.began").exists, "the task begins")
        async with channel.open_channel(channel.Endpoint(coordinator.address)) as line:
            health: Any = health_pb2_grpc.HealthStub(line)
            watching = health.Watch(health_pb2.HealthCheckRequest())
            heard = [(await watching.read()).status]
            coordinator.terminate()
            heard.append((await watching.read()).status)
            assert heard == [SERVING, NOT_SERVING]
            watching.cancel()
        assert await coordinator.ended() == 0
        assert not coordinator.ready_file.exists(), "nobody takes it for ready"
        tmp_path.joinpath("go").touch()
        await asyncio.to_thread(coordinator.start)
        assert (await client.wait_run(started.run_id)).state == runs_pb2.RUN_STATE_SUCCEEDED
        kinds = [event.kind async for event in client.list_run_events(started.run_id)]
        assert kinds.count(runs_pb2.RUN_EVENT_KIND_TASK_LEASED) == 2, "no work was done twice"
    assert agent.child.poll() is None
    assert coordinator.logged("stopped")


async def test_a_coordinator_drains_when_its_standard_input_ends(install: Install) -> None:
    """So that none is left behind by whoever started it."""
    installation = install()
    child = installation.coordinator.child
    assert child.stdin is not None
    child.stdin.close()
    assert await installation.coordinator.ended() == 0
    assert installation.coordinator.logged("stopped")


async def test_a_coordinator_whose_log_nobody_reads_any_more_goes_on(install: Install) -> None:
    """Lines are lost, answers are not."""
    installation = install()
    coordinator = installation.coordinator
    coordinator.kill()
    reading, coordinator.output = os.pipe()
    await asyncio.to_thread(coordinator.start)
    os.close(coordinator.output)
    os.close(reading)
    async with installation.client() as client:
        await client.register_workflow(one_task())
        run_id = (await client.start_run("one")).run_id
        assert await client.cancel_run(run_id) == runs_pb2.RUN_STATE_CANCELLED
    coordinator.terminate()
    assert await coordinator.ended() == 0


async def test_watching_goes_on_where_it_broke_off(house: Installation) -> None:
    """From any number on, without gap or repeat; and the run's own events alone when asked."""
    async with house.client() as client:
        with Workflow("watched") as workflow:
            workflow.task("a", kind="nobody")
            workflow.task("b", kind="nobody", after=["a"])
        await client.register_workflow(workflow.definition())
        run_id = (await client.start_run("watched")).run_id
        watching = asyncio.create_task(_all(client, run_id))
        await client.cancel_run(run_id)
        every = await asyncio.wait_for(watching, 60)
        assert [event.sequence for event in every] == list(range(1, len(every) + 1))
        assert every[-1].kind == runs_pb2.RUN_EVENT_KIND_RUN_CANCELLED
        for after in range(len(every)):
            assert await _all(client, run_id, after_sequence=after) == every[after:]
        own = [event for event in every if not event.task_key]
        assert 0 < len(own) < len(every)
        assert await _all(client, run_id, run_events_only=True) == own
        assert await _all(client, run_id, run_events_only=True, after_sequence=1) == own[1:]


async def _all(client: Client, run_id: str, **settings: Any) -> list[runs_pb2.RunEvent]:
    return [event async for event in client.watch_run(run_id, **settings)]
