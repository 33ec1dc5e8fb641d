"""The coordinator as a process: builds every part from the bottom up, serves, drains, stops.

Order matters twice. The port is bound before the store is opened, because the store tells other
coordinators where this one is reached; and calls are let in only when everything behind the gates
stands.
"""

from __future__ import annotations

import os

# Before the first import of grpc, which reads both when it is loaded: its fork handlers crash
# children spawned under traffic, and its own lines on standard error would stand beside ours.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import asyncio
import contextlib
import gc
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import orjson
import peewee
import structlog
from grpc_channelz.v1 import channelz, channelz_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from tenure.v1 import (
    agents_pb2_grpc,
    constitution_pb2_grpc,
    evidence_pb2_grpc,
    runs_pb2_grpc,
    schedules_pb2_grpc,
    tenants_pb2_grpc,
    workflows_pb2_grpc,
)
from tenure_constitution import admission, article
from tenure_server.bootstrap import bootstrap, write_private
from tenure_server.config import Config
from tenure_server.core.evidence import INSTALLATION
from tenure_server.engine import bundles
from tenure_server.engine.engine import Engine
from tenure_server.engine.inspection import LogBroken, inspect
from tenure_server.engine.notary import Notary
from tenure_server.engine.settings import Clock, Settings, SystemClock
from tenure_server.engine.standstill import StandingClock
from tenure_server.rpc import access
from tenure_server.rpc.agents import Agents
from tenure_server.rpc.constitution import Constitution
from tenure_server.rpc.doorway import Doorway, Streams
from tenure_server.rpc.evidence import Evidence
from tenure_server.rpc.gates import Chain
from tenure_server.rpc.runs import Runs
from tenure_server.rpc.schedules import Schedules
from tenure_server.rpc.tenants import Tenants
from tenure_server.rpc.workflows import Workflows
from tenure_server.signing import Signing, SigningError, default_file
from tenure_server.standstill_line import StandstillLine
from tenure_server.store.database import Store, open_store
from tenure_server.store.evidence_reads import EvidenceReads

MESSAGE_BYTES_MAX = 64 << 20
PENDING_CALLS_MAX = 50_000
#: How long calls under way may take to end once the coordinator drains.
DRAIN_SECONDS = 10.0
GC_THRESHOLDS = (50_000, 50, 100)

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 1000),
    # Beyond these gRPC ends calls at random, of anybody's, with CANCELLED and no word why. It
    # counts what is not accepted yet: a burst on two connections passes its default.
    ("grpc.server.max_pending_requests", PENDING_CALLS_MAX),
    ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS_MAX),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
)

log = structlog.get_logger()


class StartError(Exception):
    """The coordinator cannot start. The message is one line for the operator."""


class Coordinator:
    """One coordinator in this process. `start` it, and `stop` it in the same loop."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.address = ""
        self.engine: Engine
        self.store: Store
        self.signing: Signing
        self._doorway = Doorway()
        self._server = grpc.aio.server(handlers=[self._doorway], options=list(SERVER_OPTIONS))
        self._health = health.aio.HealthServicer()
        self._chain: Chain
        self._streams: Streams
        self._standstill_line: StandstillLine | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Opens everything and serves. Raises StartError, StoreOpenError; then nothing is open."""
        if self.config.ready_file is not None:
            # One that a crash left must not tell that this coordinator serves.
            self.config.ready_file.unlink(missing_ok=True)
        async with contextlib.AsyncExitStack() as undo:
            rules = access.all_rules()
            undo.push_async_callback(self._server.stop, None)
            platform = await self.platform()
            port = _bind(self._server, self.config)
            self.address = self.config.advertised(port)
            standing = StandingClock() if self.config.skip_time is not None else None
            system = SystemClock()
            clock: Clock = standing or system
            self.signing = Signing(self.config.signing_key or default_file(self.config.store))
            self.store = open_store(
                self.config.store,
                holder=holder_name(),
                address=self.address,
                sign=self.signing.sign,
            )
            undo.callback(self.store.close)
            notary = self._notary(clock)
            bundles.keep_platform(
                self.store, platform.digest(), platform.canonical(), clock.now_us()
            )
            self.engine = Engine(self.store, self.settings(), clock, notary, platform=platform)
            await self.engine.start()
            undo.push_async_callback(self.engine.stop)
            if standing is None:
                self.engine.keep_time(system)
            if self.config.bootstrap_file is not None:
                await bootstrap(
                    self.engine,
                    self.store,
                    self.config.bootstrap_file,
                    self.config.bootstrap_tenant,
                )
            self._streams = Streams(self.engine)
            self._chain = Chain(self.engine, rules)
            self._doorway.open(self._chain, self._streams)
            self._add_services()
            self.engine.on_serving(self._show_health)
            if standing is not None:
                line = await self._stand_still(standing)
                undo.push_async_callback(line.close)
            await self._server.start()
            undo.pop_all()
        if self.config.ready_file is not None:
            ready = {"address": self.address, "pid": os.getpid()}
            write_private(self.config.ready_file, orjson.dumps(ready), mode=0o644)
        if self.config.in_the_clear:
            log.warning(
                "serving without TLS: keys can be read on the way", listen=self.config.listen
            )
        log.info("serving", address=self.address, store=self.store.kind)

    async def _stand_still(self, clock: StandingClock) -> StandstillLine:
        """Lets the clock be moved. Raises StartError."""
        assert self.config.skip_time is not None
        line = self._standstill_line = StandstillLine(self.engine.standstill(clock))
        try:
            await line.open(self.config.skip_time)
        except OSError as error:
            raise StartError(f"--skip-time: {self.config.skip_time}: {error.strerror}") from None
        log.warning("time stands still, and jumps as tests say", socket=str(self.config.skip_time))
        return line

    def settings(self) -> Settings:
        """What the engine is to keep to."""
        return Settings(
            lease_us=int(self.config.lease_seconds * 1e6),
            accept_us=int(self.config.accept_seconds * 1e6),
            seat_us=int(self.config.seat_seconds * 1e6),
            keep_payloads_us=int(self.config.keep_payloads_days * 86_400e6),
            keep_runs_us=int(self.config.keep_runs_days * 86_400e6),
        )

    async def platform(self) -> article.Constitution:
        """The constitution of all tenants, admitted. Raises StartError."""
        return await _platform_constitution(self.config.constitution)

    async def stop(self) -> None:
        """Drains: agents are told, what is under way commits, streams end, then all is closed.

        Stopping twice is the same as once.
        """
        if self._chain.closing:
            return
        log.info("draining")
        self._chain.closing = True
        try:
            if self._standstill_line is not None:
                await self._standstill_line.close()
            await self._health.enter_graceful_shutdown()
            await self.engine.stop()
            stopping = asyncio.create_task(self._server.stop(DRAIN_SECONDS))
            self._streams.end_all()
            await stopping
            self.store.close()
        except peewee.PeeweeException as error:
            # The writer was left behind in the middle of a transaction.
            log.warning("the store could not be closed", reason=str(error))
        finally:
            if self.config.ready_file is not None:
                self.config.ready_file.unlink(missing_ok=True)
        log.info("stopped", commits=self.engine.commit_count)

    def _notary(self, clock: Clock) -> Notary:
        """Opens the keys, and looks at the installation's own log. Raises StartError."""
        try:
            self.signing.open(self.store, clock.now_us)
            notary = Notary(self.store, self.signing.keys)
            with self.store.reading():
                inspect(EvidenceReads(self.store, INSTALLATION), notary.chain)
        except SigningError as error:
            raise StartError(str(error)) from None
        except LogBroken as error:
            raise StartError(f"the installation's own log is broken: {error}") from None
        return notary

    def _add_services(self) -> None:
        engine, store, keys = self.engine, self.store, self.signing.keys
        server: Any = self._doorway
        tenants_pb2_grpc.add_TenantsServicer_to_server(
            Tenants(engine, store, self._streams), server
        )
        workflows_pb2_grpc.add_WorkflowsServicer_to_server(Workflows(engine, store), server)
        runs_pb2_grpc.add_RunsServicer_to_server(Runs(engine, store), server)
        schedules_pb2_grpc.add_SchedulesServicer_to_server(Schedules(engine), server)
        agents_pb2_grpc.add_AgentsServicer_to_server(
            Agents(engine, root_key=keys.root_key, certificates=keys.certificates), server
        )
        constitution_pb2_grpc.add_ConstitutionServicer_to_server(
            Constitution(engine, self._chain.rules), server
        )
        evidence_pb2_grpc.add_EvidenceServicer_to_server(Evidence(engine, store), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        cast("Any", reflection_pb2_grpc).add_ServerReflectionServicer_to_server(
            reflection.aio.ReflectionServicer(_reflected()), server
        )
        channelz_pb2_grpc.add_ChannelzServicer_to_server(channelz.aio.ChannelzServicer(), server)

    def _show_health(self, serving: bool) -> None:
        async def show() -> None:
            answer = health_pb2.HealthCheckResponse
            now = answer.SERVING if serving else answer.NOT_SERVING
            for name in ("", *_services()):
                await self._health.set(name, now)

        self._spawn(show())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def serve(config: Config, kind: type[Coordinator] = Coordinator) -> None:
    """Serves until SIGTERM, SIGINT or the end of standard input."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if config.exit_with_stdin:
        _watch_stdin(lambda: loop.call_soon_threadsafe(stop.set))
    coordinator = kind(config)
    await coordinator.start()
    # What stands now stands for good; and the hot path makes many small objects that live for one
    # commit, among which the default thresholds search all the time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    await stop.wait()
    await coordinator.stop()


def _text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8")


async def _platform_constitution(file: Path | None) -> article.Constitution:
    """The platform's constitution, admitted. Raises StartError, which names the article."""
    try:
        if file is None:
            # Admitted by a test once and for all; a trial would take a process at every start.
            return article.platform_default()
        platform = article.read(await asyncio.to_thread(_text_of, file), origin=str(file))
        await asyncio.to_thread(admission.admit, platform)
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"--constitution: {file} cannot be read: {error}") from error
    except article.ConstitutionInvalid as error:
        raise StartError(f"--constitution: {error}") from error
    except (admission.ArticleRefused, admission.TrialFailed) as error:
        raise StartError(f"--constitution: {file}: {error}") from error
    return platform


def _bind(server: grpc.aio.Server, config: Config) -> int:
    try:
        if config.tls is None:
            port = server.add_insecure_port(config.listen)
        else:
            port = server.add_secure_port(config.listen, _credentials(config))
    except RuntimeError:
        port = 0
    if not port:
        raise StartError(f"cannot listen on {config.listen}: the address is in use or not ours")
    return port


def _credentials(config: Config) -> grpc.ServerCredentials:
    tls = config.tls
    assert tls is not None
    return grpc.ssl_server_credentials(
        [(tls.key, tls.cert)],
        root_certificates=tls.client_ca,
        require_client_auth=tls.client_ca is not None,
    )


def _services() -> list[str]:
    """The contract's services by full name."""
    return [
        service.full_name for file in access.CONTRACT for service in file.services_by_name.values()
    ]


def _reflected() -> list[str]:
    return [*_services(), health.SERVICE_NAME, reflection.SERVICE_NAME, "grpc.channelz.v1.Channelz"]


def holder_name() -> str:
    """A name of this process, unlike that of any process before."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(8)}"


def _watch_stdin(ended: Callable[[], object]) -> None:
    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 65_536):
                pass
        # The loop may be gone already when the process ends for another reason.
        with contextlib.suppress(RuntimeError):
            ended()

    threading.Thread(target=watch, name="stdin", daemon=True).start()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the loop: uvloop where it is available, else None for the default."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
