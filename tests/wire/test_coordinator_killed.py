"""kill -9 of the coordinator under load: what was acknowledged happens, once, within limits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping

import pytest
from tests import logbook
from tests.wire import history
from tests.wire.conftest import Install
from tests.wire.installation import TENANT, Installation, until

from tenure.v1 import runs_pb2, workflows_pb2
from tenure_client.builder import Workflow
from tenure_client.client import Client

KILLS = 2
RUNS_PER_KILL = 20
WIDTH = 4
TENANT_LEASES_MAX = 5
WORKFLOW_LEASES_MAX = 4
SLOTS = 3


def diamond() -> workflows_pb2.WorkflowDefinition:
    """One task, several beside each other, one after all of them."""
    with Workflow("diamond", max_leases=WORKFLOW_LEASES_MAX) as workflow:
        first = workflow.task("first", kind="tenure.noop")
        middle = [
            workflow.task(
                f"middle-{n}", kind="tenure.trace", input={"seconds": 0.01}, after=[first]
            )
            for n in range(WIDTH)
        ]
        workflow.task("last", kind="tenure.echo", input=1, after=middle)
    return workflow.definition()


def upstream(definition: workflows_pb2.WorkflowDefinition) -> Mapping[str, list[str]]:
    """The graph of a definition."""
    return {task.key: list(task.depends_on) for task in definition.tasks}


class Load:
    """Clients that start runs one after the other, and keep what was acknowledged."""

    def __init__(self, installation: Installation, workflow: str) -> None:
        self.acknowledged: list[str] = []
        self._installation = installation
        self._workflow = workflow
        self._stop = False

    async def run(self) -> None:
        """Starts runs until `stop`."""
        async with self._installation.client("submitter") as client:
            await asyncio.gather(*(self._start_runs(client) for _ in range(3)))

    def stop(self) -> None:
        """Starts no more."""
        self._stop = True

    async def _start_runs(self, client: Client) -> None:
        while not self._stop:
            started = await client.start_run(self._workflow)
            self.acknowledged.append(started.run_id)


def check_evidence(
    store: str, acknowledged: Iterable[str], histories: Iterable[history.RunHistory]
) -> None:
    """Wants a whole log with one start of each run, and with every event that people are shown."""
    logs = logbook.read_url(store)
    logs.check()
    entries = logs.entries[TENANT]
    starts = Counter(
        item["run"]
        for entry in entries
        if entry.says["kind"] == "run.start"
        for item in entry.events
        if item["kind"] == "run.started"
    )
    assert set(starts.values()) == {1}
    assert starts.keys() >= set(acknowledged), "an acknowledged start left no evidence"
    told = {(event["run"], event["seq"]) for entry in entries for event in entry.events}
    shown = {(each.run.run_id, event.sequence) for each in histories for event in each.events}
    assert told == shown
    terms = {entry.says["term"] for entry in entries}
    assert terms == set(range(1, max(terms) + 1))
    assert len(terms) > KILLS, "each life writes under a term of its own"


@pytest.mark.timeout(120)
async def test_what_was_acknowledged_happens_once_through_kills_of_the_coordinator(
    install: Install, any_store: str
) -> None:
    """Every acknowledged run succeeds, and no limit was exceeded at any instant; the log of
    evidence is whole at every death, and at the end tells of all of it.
    """
    installation = install("--lease-seconds", "2", "--seat-seconds", "1.5", store=any_store)
    definition = diamond()
    await installation.add_tenant(TENANT, max_leases=TENANT_LEASES_MAX)
    async with installation.client() as admin:
        await admin.register_workflow(definition)
        for _ in range(2):
            await installation.add_agent(slots=SLOTS)
        load = Load(installation, definition.name)
        loading = asyncio.create_task(load.run())
        for turn in range(1, KILLS + 1):
            aim = turn * RUNS_PER_KILL
            await until(lambda aim=aim: len(load.acknowledged) >= aim, "runs are started")  # type: ignore[misc]
            installation.coordinator.kill()
            logbook.read_url(installation.store).check()
            await asyncio.to_thread(installation.coordinator.start)
        load.stop()
        await loading
        for run_id in load.acknowledged:
            assert (await admin.wait_run(run_id)).state == runs_pb2.RUN_STATE_SUCCEEDED
        known = {run.run_id async for run in admin.list_runs()}
        assert known.issuperset(load.acknowledged)
        histories = await history.read(admin, known)
    check_evidence(installation.store, load.acknowledged, histories)
    for each in histories:
        history.check_run(each, upstream(definition))
    peaks = history.peaks(histories)
    assert peaks.workflows[definition.name] == WORKFLOW_LEASES_MAX
    assert peaks.tenants[TENANT] <= TENANT_LEASES_MAX
    assert max(peaks.agents.values()) <= SLOTS


async def test_a_request_repeated_after_a_kill_is_the_run_that_was_started_before(
    install: Install,
) -> None:
    """The memory of requests is in the store."""
    installation = install()
    definition = diamond()
    async with installation.client() as admin:
        await admin.register_workflow(definition)
        first = await admin.start_run(definition.name, request_id="once")
        installation.coordinator.kill()
        await asyncio.to_thread(installation.coordinator.start)
        again = await admin.start_run(definition.name, request_id="once")
        assert again == first
        assert [run.run_id async for run in admin.list_runs()] == [first.run_id]
