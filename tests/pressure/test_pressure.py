"""One tenant asks for far too much, or reads nothing: memory is bounded, and others are served.

`make pressure` does the same with the full numbers, and prints what it saw.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import psutil  # type: ignore[import-untyped]
import pytest
from tests import logbook
from tests.wire.installation import Installation, until

from tenure.v1 import agents_pb2, evidence_pb2, runs_pb2
from tenure_client.builder import Workflow
from tenure_client.errors import from_rpc
from tenure_server.core import ids
from tenure_server.rpc.evidence import EXPORTS_MAX

FULL = bool(os.environ.get("TENURE_PRESSURE"))
STARTS = 10_000 if FULL else 2_500
STREAMS = 1_000 if FULL else 100
TASKS = 5_000 if FULL else 500
FRAMES = 400 if FULL else 60
RENEWALS = 5_000
#: What the whole of it may take of memory. Without bounds it took several times as much.
GROWTH_MIB = 250
#: The longest that another tenant's call may take. Far more than measured: a machine may be busy.
PATIENCE_SECONDS = 30.0


class Scene:
    """An installation with one tenant that presses and one that only wants to be served."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.address = installation.coordinator.address
        self.secrets: dict[str, str] = {}
        self._process = psutil.Process(installation.coordinator.child.pid)
        self._begin_mib = 0
        #: How long the other tenant's calls took, in milliseconds.
        self.took: list[float] = []

    def begin(self) -> None:
        """Notes how everything is before a test."""
        self._begin_mib = self.rss_mib()
        self.took = []

    def rss_mib(self) -> int:
        """How much memory the coordinator has."""
        return int(self._process.memory_info().rss) >> 20

    def grown_mib(self) -> int:
        """By how much it has grown."""
        return self.rss_mib() - self._begin_mib

    async def furnish(self) -> None:
        """Gives both tenants a workflow."""
        await self.installation.add_tenant("beta")
        for tenant_id in ("alpha", "beta"):
            async with self.installation.client("admin", tenant_id) as admin:
                for name, count in (("one", 1), ("many", TASKS)):
                    with Workflow(name) as workflow:
                        for number in range(count):
                            workflow.task(str(number), kind="nobody")
                    await admin.register_workflow(workflow.definition())
            self.secrets[tenant_id] = await self.installation.secret("admin", tenant_id)
        self.secrets["agent"] = await self.installation.secret("agent", "alpha")

    async def start(self, name: str) -> str:
        """Starts a run of the tenant that presses."""
        async with self.installation.client("admin", "alpha") as admin:
            return (await admin.start_run(name)).run_id

    def metadata(self, who: str) -> tuple[tuple[str, str], ...]:
        """The metadata of a caller."""
        return (("authorization", f"Bearer {self.secrets[who]}"),)

    @asynccontextmanager
    async def serving_others(self) -> AsyncIterator[None]:
        """Another tenant starts and reads runs all the while: each call has to be served."""
        done = asyncio.Event()

        async def live() -> None:
            async with self.installation.client("admin", "beta", retry_seconds=0) as admin:
                while not done.is_set():
                    begin = time.monotonic()
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        run_id = (await admin.start_run("one")).run_id
                        await admin.get_run(run_id)
                    self.took.append((time.monotonic() - begin) * 1e3)

        living = asyncio.create_task(live())
        try:
            yield
        finally:
            done.set()
            await living
        assert self.took
        took = sorted(self.took)
        print(f"another tenant: {len(took)} times, median {took[len(took) // 2]:.1f} ms, most "
              f"{took[-1]:.0f} ms; memory +{self.grown_mib()} MiB")  # fmt: skip

    def check(self) -> None:
        """Wants memory to be bounded, and no fault in the log."""
        assert self.grown_mib() < GROWTH_MIB
        lines = self.installation.coordinator.log_lines()
        assert not [line for line in lines if line["level"] == "error"]


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """An installation on SQLite that these tests share: each begins when the one before is over."""
    folder = tmp_path_factory.mktemp("pressure")
    installation = Installation(folder, f"sqlite://{folder}/tenure.db", ("--log-level", "warning"))
    try:
        installation.add_coordinator().start()
        scene = Scene(installation)
        asyncio.run(scene.furnish())
        yield scene
        logbook.read_url(installation.store).check()
    finally:
        installation.close()


@pytest.fixture
def scene(furnished: Scene) -> Iterator[Scene]:
    """Afterwards memory is bounded, and the log has no fault."""
    furnished.begin()
    yield furnished
    furnished.check()


@pytest.fixture
async def line(scene: Scene) -> AsyncIterator[Any]:
    """A connection of its own."""
    async with grpc.aio.insecure_channel(
        scene.address, options=[("grpc.use_local_subchannel_pool", 1)]
    ) as line:
        yield line


async def test_a_burst_of_starts_is_served_or_refused_in_words(scene: Scene) -> None:
    """None is ended without a reason, and the other tenant's calls are all served."""
    request = runs_pb2.StartRunRequest(workflow="one").SerializeToString()
    asked = {"address": scene.address, "method": "/tenure.v1.Runs/StartRun", "count": STARTS,
             "request": request.hex(), "secret": scene.secrets["alpha"]}  # fmt: skip
    async with scene.serving_others():
        flood = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.pressure.flood"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await flood.communicate(json.dumps(asked).encode())
    answers: dict[str, int] = json.loads(out)
    print(answers)
    assert sum(answers.values()) == STARTS
    assert answers.keys() <= {"OK", "OVERLOADED with RetryInfo", "QUOTA_EXCEEDED with RetryInfo"}


async def test_an_agent_that_never_reads_is_not_heard_for_ever(scene: Scene, line: Any) -> None:
    """It may say what it likes until too much is due to it; then HTTP/2 holds it back."""
    call = line.stream_stream("/tenure.v1.Agents/Work")(metadata=scene.metadata("agent"))
    hello = agents_pb2.Hello(agent="mute", instance="instance", kinds=["k"], slots=1)
    await call.write(agents_pb2.WorkRequest(hello=hello).SerializeToString())
    await call.read()
    lost = agents_pb2.LeaseRef(
        run_id=ids.new_id("alpha", 1, b"random"), task_key="a", term=1, token=b"t"
    )
    frame = agents_pb2.WorkRequest(renewals=[agents_pb2.Renewal(lease=lost)] * RENEWALS)
    raw, said = frame.SerializeToString(), 0

    async def say() -> None:
        nonlocal said
        while said < FRAMES:
            await call.write(raw)
            said += 1

    async with scene.serving_others():
        saying = asyncio.create_task(say())
        # It is held back, or everything was heard; either way it says no more after a while.
        before = -1
        while said != before:
            before = said
            await asyncio.wait([saying], timeout=1)
        assert said < FRAMES, "it was heard to the end, and somebody keeps what is due to it"
        saying.cancel()
    call.cancel()


async def test_exports_that_nobody_reads_are_bounded(scene: Scene, line: Any) -> None:
    """A few may be under way; more are refused in words, and others' reads do not stand behind."""
    run_id = await scene.start("many")
    async with scene.installation.client("admin", "alpha") as admin:
        await admin.cancel_run(run_id)
    request = evidence_pb2.ExportRunRequest(run_id=run_id).SerializeToString()
    export = line.unary_stream("/tenure.v1.Evidence/ExportRun")
    async with scene.serving_others():
        calls = [export(request, metadata=scene.metadata("alpha")) for _ in range(5 * EXPORTS_MAX)]
        refused = [call for call in calls if await _refused(call)]
        for call in refused:
            assert (await _reason(call)) == "OVERLOADED"
        # A small bundle is over before anybody reads it, and gives its place to the next.
        assert refused or not FULL
    for call in calls:
        call.cancel()


async def _refused(call: Any) -> bool:
    """Whether a call has ended with a refusal; one that has begun to answer has not."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await call.read() is None
    except grpc.aio.AioRpcError:
        return True


async def _reason(call: Any) -> str:
    metadata = await call.initial_metadata(), await call.trailing_metadata()
    error = grpc.aio.AioRpcError(await call.code(), *metadata, await call.details())
    read = from_rpc(error)
    assert read.retry_after
    return read.reason


def _watch_run(run_id: str) -> tuple[str, bytes]:
    return "Runs/WatchRun", runs_pb2.WatchRunRequest(run_id=run_id).SerializeToString()


def _watch_log(run_id: str) -> tuple[str, bytes]:
    return "Evidence/WatchEntries", evidence_pb2.WatchEntriesRequest().SerializeToString()


@pytest.mark.parametrize("watch", [_watch_run, _watch_log], ids=["watchers of a run", "of a log"])
async def test_watchers_that_never_read_harm_nobody(
    watch: Callable[[str], tuple[str, bytes]], scene: Scene, line: Any
) -> None:
    """However many, while what they watch goes on: nothing is kept for them."""
    run_id = await scene.start("many")
    method, request = watch(run_id)
    calls = [
        line.unary_stream(f"/tenure.v1.{method}")(request, metadata=scene.metadata("alpha"))
        for _ in range(STREAMS - 1)
    ]
    for call in calls:
        await call.initial_metadata()
    async with scene.serving_others():
        async with scene.installation.client("admin", "alpha") as admin:
            for _ in range(20):
                await admin.start_run("one")
            await admin.cancel_run(run_id)
        most = len(scene.took) + 5
        await until(lambda: len(scene.took) > most, "the other tenant is served")
    for call in calls:
        call.cancel()


async def test_a_thousand_idle_agents_cost_little(scene: Scene, line: Any) -> None:
    """Each is on the line and says nothing; more than the tenant may have are refused in words."""
    calls = []
    for number in range(STREAMS - 1):
        call = line.stream_stream("/tenure.v1.Agents/Work")(metadata=scene.metadata("agent"))
        hello = agents_pb2.Hello(agent=f"idle-{number}", instance="instance", kinds=["k"], slots=1)
        await call.write(agents_pb2.WorkRequest(hello=hello).SerializeToString())
        calls.append(call)
    for call in calls:
        await call.read()
    async with scene.serving_others():
        await until(lambda: len(scene.took) > 5, "the other tenant is served")
    assert scene.grown_mib() < 20 + STREAMS // 10
    for call in calls:
        call.cancel()
