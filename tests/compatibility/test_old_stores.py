"""Stores that older versions filled go forward to today's: nothing is lost, and work goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from tests.compatibility.frozen import Frozen, Seen
from tests.conftest import LiveCoordinator, serving_again
from tests.wire.by_hand import STOPPED, HandAgent, ref, success

from tenure.v1 import agents_pb2, runs_pb2
from tenure_client.client import Client
from tenure_client.errors import TenureError
from tenure_evidence import records
from tenure_evidence.database import Database
from tenure_evidence.signing import SigningKeys
from tenure_evidence.verify import verify
from tenure_server.audit import audit_store
from tenure_server.store.database import open_store

TENANTS = ("alpha", "beta")
OPEN = (
    runs_pb2.RUN_STATE_RUNNING,
    runs_pb2.RUN_STATE_CANCELLING,
    runs_pb2.RUN_STATE_PAUSED,
    runs_pb2.RUN_STATE_COMPENSATING,
)
#: How the runs end that do not simply succeed.
ENDS = {
    "failed": "FAILED",
    "cancelled": "CANCELLED",
    "cancelling": "CANCELLED",
    "late": "FAILED",
    "undoing": "FAILED",
}


def _contains(now: Any, then: Any) -> bool:
    """Whether all that was said then is said now; more may be."""
    if isinstance(then, dict):
        return all(key in now and _contains(now[key], value) for key, value in then.items())
    if isinstance(then, list):
        return len(now) == len(then) and all(map(_contains, now, then))
    return bool(now == then)


async def _told(client: Client, run_id: str) -> Seen:
    return Seen(
        run=MessageToDict(await client.get_run(run_id)),
        tasks=[MessageToDict(task) async for task in client.list_tasks(run_id)],
        events=[MessageToDict(event) async for event in client.list_run_events(run_id)],
    )


async def test_what_an_older_version_left_is_all_there_and_ends(
    frozen: Frozen, restored: Callable[[Frozen], str], tmp_path: Path
) -> None:
    """Runs that had ended read as they did; open ones go on from where they stood."""
    url = restored(frozen)
    key = frozen.signing_key(tmp_path)
    async with serving_again(url, frozen.secrets, signing_key=key) as live:
        for tenant in TENANTS:
            await _compare(live, frozen, tenant)
            await _settle_old_leases(live, frozen, tenant)
            await _wake(live, frozen, tenant)
            await _work(live, frozen, tenant)
        await _same_identity(live, frozen)
        await _bundles(live, frozen, key)
    _judge(url, key)


async def _compare(live: LiveCoordinator, frozen: Frozen, tenant: str) -> None:
    async with Client(live.address, live.secrets[f"{tenant}/admin"]) as client:
        listed = {run.run_id async for run in client.list_runs()}
        for flow, then in frozen.seen(tenant).items():
            assert then.run_id in listed
            now = await _told(client, then.run_id)
            assert _contains(now.events[: len(then.events)], then.events), flow
            if then.ended:
                assert _contains(now.run, then.run), flow
                assert _contains(now.tasks, then.tasks), flow
                assert len(now.events) == len(then.events), flow


async def _settle_old_leases(live: LiveCoordinator, frozen: Frozen, tenant: str) -> None:
    """Agents that had leases over the migration come back with their results."""
    agent = HandAgent(live.channel, frozen.secrets[f"{tenant}/agent"])
    for flow, lease in frozen.leases(tenant).items():
        end = STOPPED if flow == "cancelling" else success(b'{"of":"late"}')
        assert await agent.settle(lease, end) == "APPLIED", flow
        if flow != "cancelling":
            assert await agent.settle(lease, end) == "ALREADY_APPLIED", flow


async def _wake(live: LiveCoordinator, frozen: Frozen, tenant: str) -> None:
    """Gives the runs that wait for the world what they wait for."""
    runs = frozen.seen(tenant)
    if "signal" not in runs:
        return
    secret = frozen.secrets[f"{tenant}/submitter"]
    async with Client(live.address, secret) as person:
        assert await person.operations.signal(runs["signal"].run_id, "go", {"by": "hand"})
        published = await person.operations.publish("pushed", "main", {"of": "main"})
        assert published.task_count == 1
        await person.operations.decide(runs["approval"].run_id, "a", consent=True)
        await person.operations.resume(runs["paused"].run_id)


async def _work(live: LiveCoordinator, frozen: Frozen, tenant: str) -> None:
    """Does all that is left, until no run is open."""
    runs = frozen.seen(tenant)
    agent = HandAgent(live.channel, frozen.secrets[f"{tenant}/agent"])
    leased = {}
    async with Client(live.address, live.secrets[f"{tenant}/admin"]) as client:
        while [run async for run in client.list_runs(states=OPEN)]:
            for lease in await _leases(agent, {*runs, "child"}):
                leased[lease.run_id, lease.task_key] = lease
                assert await agent.settle(ref(lease), success(b'{"of":"b"}')) == "APPLIED"
        for flow, then in runs.items():
            run = await client.get_run(then.run_id)
            assert runs_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_") == ENDS.get(
                flow, "SUCCEEDED"
            ), flow
    if "retrying" in runs:
        again = leased[runs["retrying"].run_id, "a"]
        assert (again.attempt, again.checkpoint.data) == (2, b'{"half":true}')


async def _leases(agent: HandAgent, kinds: set[str]) -> list[agents_pb2.Lease]:
    request = agents_pb2.LeaseTasksRequest(
        agent=agent.name, kinds=kinds, max_leases=100, wait=Duration(seconds=1)
    )
    return list((await agent.stub.LeaseTasks(request, metadata=agent.metadata)).batch.leases)


async def _same_identity(live: LiveCoordinator, frozen: Frozen) -> None:
    """What was registered then is the same version now."""
    async with Client(live.address, live.secrets["alpha/admin"]) as client:
        for flow, then in frozen.seen("alpha").items():
            if then.run["workflow"] != flow:
                continue
            kept = await client.get_workflow(flow)
            again = await client.register_workflow(kept.definition)
            assert not again.created
            assert (again.workflow.version, again.workflow.digest) == (
                (1, then.run["workflowDigest"])
            )


def _judge(url: str, key: Path) -> None:
    """The logs are whole, and what was signed then is still true of them."""
    chain = SigningKeys.load(key).chain()
    store = open_store(url, holder="audit", address="audit:1")
    try:
        assert audit_store(store, chain) == []
    finally:
        store.close()
    if url.startswith("sqlite:"):
        # As somebody does who has nothing but a copy of the file.
        with Database(Path(url.removeprefix("sqlite://"))) as database:
            for tenant in TENANTS:
                judgement = records.judge(database, tenant, chain)
                assert judgement.audit.faults == ()


async def _bundles(live: LiveCoordinator, frozen: Frozen, key: Path) -> None:
    """What was exported then verifies now, and so does what is exported of an old run now."""
    run_id = frozen.seen("alpha")["done"].run_id
    new = key.with_name("new.bundle.json")
    async with Client(live.address, live.secrets["alpha/admin"]) as client:
        if frozen.version == "foundation":
            with pytest.raises(TenureError, match="no such evidence of run"):
                await client.evidence.export_run(run_id, new)
            return
        await client.evidence.export_run(run_id, new)
    for bundle in (new, frozen.folder / "run.bundle.json"):
        report = verify(bundle.read_bytes(), SigningKeys.load(key).root_key)
        assert report.ok, report.findings
        assert (report.run, report.end) == (run_id, "run.succeeded")
