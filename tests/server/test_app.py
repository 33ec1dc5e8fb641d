"""The coordinator as a process: what it serves beside the contract, how it starts and stops."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
from tests.conftest import LiveCoordinator, serving
from tests.server.test_config import PLAIN

from tenure.v1 import tenants_pb2, tenants_pb2_grpc
from tenure_server import app, config
from tenure_server.core import errors
from tenure_server.core.ledger import records
from tenure_server.store.acts import Acts

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


# -- beside the contract ---------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["", "tenure.v1.Runs", "tenure.v1.Agents"])
async def test_anybody_may_ask_after_its_health(coordinator: LiveCoordinator, service: str) -> None:
    """Of the whole, and of each service."""
    health: Any = health_pb2_grpc.HealthStub(coordinator.channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
    assert answer.status == SERVING


async def test_health_of_what_is_not_served_is_not_there(coordinator: LiveCoordinator) -> None:
    """The answer of the health service itself gets through the gates."""
    health: Any = health_pb2_grpc.HealthStub(coordinator.channel)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await health.Check(health_pb2.HealthCheckRequest(service="tenure.v1.Nothing"))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_who_watches_its_health_hears_that_it_stops(coordinator: LiveCoordinator) -> None:
    """Before the stream ends."""
    health: Any = health_pb2_grpc.HealthStub(coordinator.channel)
    watch = health.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == SERVING
    stopping = asyncio.create_task(coordinator.server.stop())
    assert (await watch.read()).status == NOT_SERVING
    assert await watch.code() is grpc.StatusCode.UNAVAILABLE
    await stopping


async def test_anybody_may_read_the_contract(coordinator: LiveCoordinator) -> None:
    """Reflection lists every service and knows their files, so grpcurl needs no protos."""
    line: Any = coordinator.channel
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(line)
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="tenure.v1.Runs"),
    ]
    answers = [it async for it in reflection.ServerReflectionInfo(iter(requests))]
    names = {service.name for service in answers[0].list_services_response.service}
    assert names == {
        "tenure.v1.Agents",
        "tenure.v1.Constitution",
        "tenure.v1.Evidence",
        "tenure.v1.Runs",
        "tenure.v1.Schedules",
        "tenure.v1.Tenants",
        "tenure.v1.Workflows",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "grpc.channelz.v1.Channelz",
    }
    assert answers[1].file_descriptor_response.file_descriptor_proto


async def test_only_operators_look_at_the_connections(coordinator: LiveCoordinator) -> None:
    """Channelz shows addresses of everybody's clients."""
    line: Any = coordinator.channel
    channelz: Any = channelz_pb2_grpc.ChannelzStub(line)
    request = channelz_pb2.GetServersRequest()
    operator = coordinator.calls("operator").metadata
    assert (await channelz.GetServers(request, metadata=operator)).server
    for metadata, code in (
        ((), grpc.StatusCode.UNAUTHENTICATED),
        (coordinator.calls("admin").metadata, grpc.StatusCode.PERMISSION_DENIED),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channelz.GetServers(request, metadata=metadata)
        assert raised.value.code() is code


async def test_garbage_on_the_port_harms_nobody(coordinator: LiveCoordinator) -> None:
    """Whatever it is, the next call is served."""
    host, _, port = coordinator.address.rpartition(":")
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(4096), b"\x16\x03\x01" + bytes(500)):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(garbage)
        writer.write_eof()
        await reader.read()
        writer.close()
    calls = coordinator.calls("viewer").tenants
    assert (await calls.GetCaller(tenants_pb2.GetCallerRequest())).api_key.name == "test"


# -- starting --------------------------------------------------------------------------------------


async def test_the_first_keys_are_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is for its owner only, and a second start changes neither file nor keys."""
    words = tmp_path / "credentials.json"
    seen = []
    for _ in range(2):
        server = app.Coordinator(
            config.Config(
                store=f"sqlite:///{tmp_path}/t.db",
                listen="127.0.0.1:0",
                bootstrap_file=words,
                bootstrap_tenant="first",
            )
        )
        await server.start()
        seen.append(words.read_text())
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = tenants_pb2_grpc.TenantsStub(channel)
            for name, tenants in (("operator", []), ("admin", ["first"]), ("agent", ["first"])):
                secret = json.loads(seen[-1])[name]
                caller = await stub.GetCaller(
                    tenants_pb2.GetCallerRequest(),
                    metadata=(("authorization", f"Bearer {secret}"),),
                )
                assert list(caller.api_key.tenant_ids) == tenants
        await server.stop()
    assert seen[0] == seen[1]
    assert json.loads(seen[0])["tenant"] == "first"
    assert stat.S_IMODE(words.stat().st_mode) == 0o600


async def test_no_file_is_written_for_a_store_that_has_keys(
    tmp_path: Path, coordinator: LiveCoordinator
) -> None:
    """Its secrets are nobody's to show; and the store of a running coordinator is its own."""
    await coordinator.server.stop()
    words = tmp_path / "other.json"
    server = app.Coordinator(
        config.Config(
            store=coordinator.server.config.store, listen="127.0.0.1:0", bootstrap_file=words
        )
    )
    await server.start()
    await server.stop()
    assert not words.exists()


async def test_a_start_that_fails_leaves_nothing_open(
    tmp_path: Path, coordinator: LiveCoordinator
) -> None:
    """The store can be opened by the next one; the port as well."""
    store = f"sqlite:///{tmp_path}/other.db"
    taken = app.Coordinator(config.Config(store=store, listen=coordinator.address))
    with pytest.raises(app.StartError, match=f"cannot listen on {coordinator.address}"):
        await taken.start()
    async with serving(store, tmp_path) as live:
        assert live.address != coordinator.address


async def test_a_ready_file_that_a_crash_left_is_taken_away_before_anything_else(
    tmp_path: Path, coordinator: LiveCoordinator
) -> None:
    """Who waits for it must not believe that a coordinator serves which could not start."""
    ready = tmp_path / "ready.json"
    ready.write_text("stale")
    store = f"sqlite:///{tmp_path}/other.db"
    taken = app.Coordinator(
        config.Config(store=store, listen=coordinator.address, ready_file=ready)
    )
    with pytest.raises(app.StartError):
        await taken.start()
    assert not ready.exists()


async def test_it_starts_though_another_one_made_the_first_tenant_in_that_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the keys are the other one's, and ours are withdrawn."""

    def late(self: Acts, tenant: records.Tenant) -> None:
        raise errors.AlreadyExists("there is a tenant dev already", tenant_id="dev")

    monkeypatch.setattr(Acts, "create_tenant", late)
    words = tmp_path / "credentials.json"
    store = f"sqlite:///{tmp_path}/t.db"
    server = app.Coordinator(config.Config(store=store, listen="127.0.0.1:0", bootstrap_file=words))
    await server.start()
    await server.stop()
    assert not words.exists()


def test_a_key_that_is_not_the_certificates_is_found(tmp_path: Path) -> None:
    """Before a client meets a handshake that fails."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    own, _ = _sign("coordinator")
    other, _ = _sign("other")
    cert.write_bytes(own.cert)
    key.write_bytes(own.key)
    files = {"tls_cert": cert, "tls_key": key}
    assert config.Config.checked(**{**PLAIN, **files}).tls is not None
    key.write_bytes(other.key)
    with pytest.raises(config.ConfigError, match=r"key\.pem is not the key of .*cert\.pem"):
        config.Config.checked(**{**PLAIN, **files})


# -- TLS -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signed:
    """A certificate and its key in PEM form."""

    cert: bytes
    key: bytes


def _sign(name: str, issuer: tuple[Any, Any] | None = None) -> tuple[Signed, tuple[Any, Any]]:
    """Makes a certificate for this host, signed by the issuer or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
    )
    cert = builder.sign(issuer[1] if issuer else key, hashes.SHA256())
    signed = Signed(
        cert.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    return signed, (cert, key)


async def _who(address: str, secret: str, **credentials: Any) -> str:
    """Asks over TLS who the caller is."""
    tls = grpc.ssl_channel_credentials(**credentials)
    async with grpc.aio.secure_channel(address, tls) as channel:
        caller = await tenants_pb2_grpc.TenantsStub(channel).GetCaller(
            tenants_pb2.GetCallerRequest(),
            metadata=(("authorization", f"Bearer {secret}"),),
            timeout=60,
        )
    name: str = caller.api_key.name
    return name


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual tls"])
async def test_a_coordinator_with_a_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutual: bool
) -> None:
    """Who trusts its authority gets through; with mutual TLS only who shows a certificate."""
    authority, issuer = _sign("authority")
    own, _ = _sign("coordinator", issuer)
    client, _ = _sign("client", issuer)
    stranger, _ = _sign("stranger")
    words = tmp_path / "credentials.json"
    server = app.Coordinator(
        config.Config(
            store=f"sqlite:///{tmp_path}/t.db",
            listen="127.0.0.1:0",
            bootstrap_file=words,
            tls=config.TlsFiles(
                cert=own.cert, key=own.key, client_ca=authority.cert if mutual else None
            ),
        )
    )
    await server.start()
    secret = json.loads(words.read_text())["admin"]
    trusted = {"root_certificates": authority.cert}
    shown = {**trusted, "private_key": client.key, "certificate_chain": client.cert}
    assert await _who(server.address, secret, **shown) == "bootstrap admin"
    refused = [{"root_certificates": stranger.cert}]
    if mutual:
        refused.append(trusted)
        refused.append({**trusted, "private_key": stranger.key, "certificate_chain": stranger.cert})
    else:
        assert await _who(server.address, secret, **trusted) == "bootstrap admin"
    for credentials in refused:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await _who(server.address, secret, **credentials)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    await server.stop()


# -- the process -----------------------------------------------------------------------------------

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts coordinators of their own; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*flags: str, store: str = "own.db", **how: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tenure_server", "serve"]
        command += ["--store", f"sqlite:///{tmp_path}/{store}", *flags]
        if "--listen" not in flags:
            command += ["--listen", "127.0.0.1:0"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **how)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _await_ready(process: subprocess.Popen[str], file: Path) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while not file.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "not ready in time"
        time.sleep(0.02)  # another process's file: there is nothing to wait on but the clock
    ready: dict[str, Any] = json.loads(file.read_text())
    return ready


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "end of stdin"])
def test_it_drains_and_exits_with_nought(start: Start, tmp_path: Path, how: str) -> None:
    """However it is told to stop; the log says so, one JSON object a line."""
    file = tmp_path / "ready.json"
    process = start(
        *("--ready-file", str(file), "--log-format", "json", "--exit-with-stdin"),
        stdin=subprocess.PIPE,
    )
    ready = _await_ready(process, file)
    assert ready["pid"] == process.pid
    with socket.create_connection(tuple(ready["address"].split(":"))):
        pass
    if how == "end of stdin":
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    else:
        process.send_signal(getattr(signal, how))
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events == ["serving", "draining", "stopped"]
    assert not file.exists()


def test_what_keeps_it_from_starting_is_one_line(start: Start, tmp_path: Path) -> None:
    """A store in use, a port in use, a file that is no store: exit code 2 and why."""
    file = tmp_path / "ready.json"
    first = start("--ready-file", str(file))
    address = _await_ready(first, file)["address"]
    (tmp_path / "letter.db").write_text(
        "Dear Ann, this is no database at all, but a letter.\n" * 50
    )
    for flags, store, words in (
        ((), "own.db", "is in use by another coordinator"),
        (("--listen", address), "other.db", f"cannot listen on {address}"),
        ((), "letter.db", "letter.db"),
    ):
        process = start(*flags, store=store)
        _, log = process.communicate(timeout=60)
        assert process.returncode == 2
        [line] = log.splitlines()
        assert line.startswith("tenure-server: ")
        assert words in line


def test_flags_come_from_the_environment_too(start: Start, tmp_path: Path) -> None:
    """TENURE_SERVER_ and the flag's name."""
    file = tmp_path / "ready.json"
    process = start(env={**os.environ, "TENURE_SERVER_READY_FILE": str(file)})
    assert _await_ready(process, file)["pid"] == process.pid
