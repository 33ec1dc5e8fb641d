"""The service Evidence: lists, checkpoints, proofs, bundles, and who sees what."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.conftest import Calls, LiveCoordinator, serving

from tenure.v1 import (
    agents_pb2,
    evidence_pb2,
    evidence_pb2_grpc,
    payload_pb2,
    runs_pb2,
    tenants_pb2,
    workflows_pb2,
)
from tenure_evidence import tree, verify
from tenure_evidence.audit import LogEntry, audit
from tenure_evidence.keys import Chain
from tenure_evidence.notes import Checkpoint
from tenure_server.core import ids

PATIENCE_SECONDS = 60


@pytest.fixture
async def house(either_url: str, tmp_path: Path) -> AsyncIterator[LiveCoordinator]:
    """A coordinator on each of the databases."""
    async with serving(either_url, tmp_path) as live:
        yield live


def evidence(live: LiveCoordinator, caller: str) -> Any:
    """The service as one caller."""
    stub = evidence_pb2_grpc.EvidenceStub(live.channel)
    calls = live.calls(caller)
    return type(calls.runs)(stub, calls.metadata)


async def ended_run(live: LiveCoordinator, tenant: str = "alpha", tasks: int = 3) -> str:
    """A run that two agents took turns on, up to its end."""
    calls = live.calls(f"{tenant}/submitter")
    definition = workflows_pb2.WorkflowDefinition(
        name="fan",
        tasks=[workflows_pb2.WorkflowTask(key=f"t{number}", kind="k") for number in range(tasks)],
    )
    definition.tasks.add(key="last", kind="k", depends_on=[f"t{number}" for number in range(tasks)])
    await calls.workflows.RegisterWorkflow(
        workflows_pb2.RegisterWorkflowRequest(definition=definition)
    )
    started = await calls.runs.StartRun(
        runs_pb2.StartRunRequest(workflow="fan", input=payload_pb2.Payload(data=b'{"a":1}'))
    )
    agent = live.calls(f"{tenant}/agent")
    done = 0
    while done <= tasks:
        for name in ("one", "two"):
            done += await _work(agent, name)
    return str(started.run_id)


async def _work(agent: Calls, name: str) -> int:
    """Leases what there is and settles it; tells how many tasks that were."""
    asked = agents_pb2.LeaseTasksRequest(agent=name, kinds=["k"], max_leases=2)
    leased = await agent.agents.LeaseTasks(asked)
    results = [
        agents_pb2.Result(
            lease=agents_pb2.LeaseRef(
                run_id=lease.run_id, task_key=lease.task_key, term=lease.term, token=lease.token
            ),
            success=agents_pb2.Success(output=payload_pb2.Payload(data=b"7")),
        )
        for lease in leased.batch.leases
    ]
    if results:
        settle = agents_pb2.SettleTasksRequest(results=results)
        await agent.agents.SettleTasks(settle)
    return len(results)


async def exported(live: LiveCoordinator, caller: str, run_id: str) -> bytes:
    """The bundle of a run."""
    request = evidence_pb2.ExportRunRequest(run_id=run_id)
    return b"".join([piece.chunk async for piece in evidence(live, caller).ExportRun(request)])


async def all_entries(service: Any, **wanted: Any) -> list[Any]:
    """All pages of a list."""
    found: list[Any] = []
    request = evidence_pb2.ListEntriesRequest(page_size=4, **wanted)
    while True:
        page = await service.ListEntries(request)
        found += page.entries
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def chain_of(live: LiveCoordinator) -> Chain:
    """The public keys."""
    keys = await evidence(live, "viewer").GetSigningKeys(evidence_pb2.GetSigningKeysRequest())
    return Chain.read(keys.root_key, list(keys.certificates))


async def test_a_run_is_exported_as_a_bundle_that_verifies(house: LiveCoordinator) -> None:
    """With nothing but the root key, and whoever of the tenant asks."""
    run_id = await ended_run(house)
    other = await ended_run(house)
    chain = await chain_of(house)
    report = verify.verify(await exported(house, "viewer", run_id), chain.keys[0].text)
    assert report.findings == ()
    assert (report.run, report.end, report.tenant) == (run_id, "run.succeeded", "alpha")
    assert other.encode() not in await exported(house, "viewer", run_id)


async def test_an_open_run_is_exported_as_far_as_it_has_come(house: LiveCoordinator) -> None:
    """And verifies."""
    await ended_run(house)
    calls = house.calls("submitter")
    started = await calls.runs.StartRun(runs_pb2.StartRunRequest(workflow="fan"))
    report = verify.verify(await exported(house, "submitter", started.run_id))
    assert report.findings == ()
    assert report.end == ""


async def test_entries_come_in_pages_and_every_one_once(house: LiveCoordinator) -> None:
    """By number, without gaps."""
    await ended_run(house)
    found = await all_entries(evidence(house, "viewer"), with_items=True)
    numbers = [entry.index for entry in found]
    assert numbers == list(range(len(numbers)))
    assert [json.loads(entry.entry)["index"] for entry in found] == numbers
    tail = await all_entries(evidence(house, "viewer"), from_index=5)
    assert [entry.index for entry in tail][:3] == [5, 6, 7]
    assert not any(entry.items for entry in tail)


async def test_filters_leave_only_what_was_asked_for(house: LiveCoordinator) -> None:
    """Kind, run, principal, correlation id, refusals."""
    run_id = await ended_run(house)
    service = evidence(house, "viewer")
    kinds = {json.loads(it.entry)["kind"] for it in await all_entries(service, kind="run.start")}
    assert kinds == {"run.start"}
    of_run = await all_entries(service, run_id=run_id, with_items=True)
    assert all(run_id.encode() in b"".join(entry.items) for entry in of_run)
    start = json.loads(of_run[0].entry)
    assert start["kind"] == "run.start"
    same = await all_entries(service, correlation_id=start["correlation"])
    assert of_run[0].index in [entry.index for entry in same]
    mine = await all_entries(service, principal=start["principal"])
    assert {json.loads(entry.entry)["principal"] for entry in mine} == {start["principal"]}
    with pytest.raises(grpc.aio.AioRpcError):
        await house.calls("viewer").runs.StartRun(runs_pb2.StartRunRequest(workflow="fan"))
    [refused] = await all_entries(service, refused_only=True)
    assert json.loads(refused.entry)["refusal"] == "ROLE_MISSING"


async def test_a_page_token_is_good_for_its_filter_only(house: LiveCoordinator) -> None:
    """And for its caller."""
    await ended_run(house)
    page = await evidence(house, "viewer").ListEntries(
        evidence_pb2.ListEntriesRequest(page_size=1, kind="run.start")
    )
    first = await evidence(house, "viewer").ListEntries(
        evidence_pb2.ListEntriesRequest(page_size=1)
    )
    assert not page.next_page_token
    for caller, kind in (("viewer", "run.start"), ("submitter", "")):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await evidence(house, caller).ListEntries(
                evidence_pb2.ListEntriesRequest(
                    page_size=1, kind=kind, page_token=first.next_page_token
                )
            )
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_proofs_verify_against_signed_checkpoints(house: LiveCoordinator) -> None:
    """Inclusion of every entry, and consistency of every two checkpoints."""
    service = evidence(house, "admin")
    chain = await chain_of(house)
    await service.GetCheckpoint(evidence_pb2.GetCheckpointRequest())
    await ended_run(house)
    answer = await service.GetCheckpoint(evidence_pb2.GetCheckpointRequest())
    newest = Checkpoint.parse(chain.open(answer.checkpoint))
    assert (newest.size, newest.tenant) == (answer.size, "alpha")
    for index in range(newest.size):
        proof = await service.GetInclusionProof(
            evidence_pb2.GetInclusionProofRequest(index=index, size=newest.size)
        )
        leaf = tree.leaf_hash(proof.entry.entry)
        assert tree.verify_inclusion(index, newest.size, leaf, list(proof.proof), newest.root)
    listed = await service.ListCheckpoints(evidence_pb2.ListCheckpointsRequest())
    sizes = [each.size for each in listed.checkpoints]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == newest.size
    first = Checkpoint.parse(chain.open(listed.checkpoints[-1].note))
    consistency = await service.GetConsistencyProof(
        evidence_pb2.GetConsistencyProofRequest(first_size=first.size, second_size=newest.size)
    )
    assert tree.verify_consistency(
        first.size, newest.size, first.root, newest.root, list(consistency.proof)
    )


async def test_what_a_log_has_not_is_not_there(house: LiveCoordinator) -> None:
    """Entries, sizes, and sizes in the wrong order."""
    service = evidence(house, "viewer")
    for call, request, code in (
        ("GetInclusionProof", {"index": 10**9}, "NOT_FOUND"),
        ("GetInclusionProof", {"index": 0, "size": 10**9}, "NOT_FOUND"),
        ("GetConsistencyProof", {"first_size": 1, "second_size": 10**9}, "NOT_FOUND"),
        ("GetConsistencyProof", {"first_size": 2, "second_size": 1}, "INVALID_ARGUMENT"),
    ):
        message = getattr(evidence_pb2, f"{call}Request")(**request)
        await service.ListEntries(evidence_pb2.ListEntriesRequest())
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await getattr(service, call)(message)
        assert raised.value.code().name == code, (call, request)


async def test_a_whole_log_passes_an_audit(house: LiveCoordinator) -> None:
    """A tenant's, and the installation's own."""
    await ended_run(house)
    chain = await chain_of(house)
    for caller, tenant in (("viewer", "alpha"), ("operator", "")):
        await _audited(house, caller, tenant, chain)


async def test_nobody_sees_another_tenants_evidence(house: LiveCoordinator) -> None:
    """Its runs are not there, its entries in no list, its ids in no entry."""
    theirs = await ended_run(house, "beta")
    await ended_run(house)
    for caller in ("viewer", "admin"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await exported(house, caller, theirs)
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await all_entries(evidence(house, caller), run_id=theirs)
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    for entry in await all_entries(evidence(house, "viewer"), with_items=True):
        assert json.loads(entry.entry)["log"] == "alpha"
        assert theirs.encode() not in entry.entry + b"".join(entry.items)
        for item in entry.items:
            assert ids.belongs(json.loads(item)["run"], "alpha")


async def test_entries_are_watched_without_gap_or_repeat(house: LiveCoordinator) -> None:
    """From the store, and then as they are committed."""
    await ended_run(house)
    watch = evidence(house, "viewer").WatchEntries(evidence_pb2.WatchEntriesRequest(from_index=3))
    seen: list[int] = []

    async def follow(until: int) -> None:
        async for message in watch:
            seen.extend(entry.index for entry in message.entries)
            if seen[-1] >= until:
                return

    working = asyncio.create_task(ended_run(house))
    await asyncio.wait_for(follow(8), PATIENCE_SECONDS)
    await working
    size = (await evidence(house, "admin").GetCheckpoint(evidence_pb2.GetCheckpointRequest())).size
    await asyncio.wait_for(follow(size - 1), PATIENCE_SECONDS)
    assert seen == list(range(3, seen[-1] + 1))
    watch.cancel()


async def test_a_watch_ends_with_the_coordinator(coordinator: LiveCoordinator) -> None:
    """UNAVAILABLE, so that its reader comes back."""
    watch = evidence(coordinator, "operator").WatchEntries(evidence_pb2.WatchEntriesRequest())
    assert (await watch.read()).entries[0].index == 0
    await coordinator.server.stop()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await _drained(watch)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def _drained(stream: Any) -> None:
    """Reads a stream to its end."""
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_an_erased_tenant_leaves_nothing_but_a_word_in_the_installations_log(
    house: LiveCoordinator,
) -> None:
    """Size and root of its log; the logs of others stay whole, and its name can be given again."""
    operator, tenants = evidence(house, "operator"), house.calls("operator").tenants
    await ended_run(house, "beta")
    run_id = await ended_run(house)
    chain = await chain_of(house)
    bundle = await exported(house, "viewer", run_id)
    request = tenants_pb2.DeleteTenantRequest(tenant_id="beta", request_id="erase")
    erased = await tenants.DeleteTenant(request)
    assert await tenants.DeleteTenant(request) == erased
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await tenants.GetTenant(tenants_pb2.GetTenantRequest(tenant_id="beta"))
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await house.calls("beta/viewer").runs.ListRuns(runs_pb2.ListRunsRequest())
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    [entry, *_] = await all_entries(operator, kind="tenant.delete")
    assert json.loads(entry.entry)["subject"] == {
        "tenant": "beta",
        "size": str(erased.log_size),
        "root": erased.log_root.hex(),
    }
    assert erased.log_size > 5
    for caller, tenant in (("viewer", "alpha"), ("operator", "")):
        await _audited(house, caller, tenant, chain)
    assert verify.verify(await exported(house, "viewer", run_id)).findings == ()
    assert verify.verify(bundle, chain.keys[0].text).findings == ()
    await tenants.CreateTenant(tenants_pb2.CreateTenantRequest(tenant_id="beta"))
    house.secrets["beta/viewer"] = await house.make_key("viewer", tenants=("beta",))
    again = await house.calls("beta/viewer").workflows.ListWorkflows(
        workflows_pb2.ListWorkflowsRequest()
    )
    assert not again.workflows
    await _audited(house, "beta/viewer", "beta", chain)


async def test_a_tenant_with_open_runs_is_not_erased(house: LiveCoordinator) -> None:
    """And goes on to be served."""
    await ended_run(house)
    calls = house.calls("submitter")
    started = await calls.runs.StartRun(runs_pb2.StartRunRequest(workflow="fan"))
    tenants = house.calls("operator").tenants
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await tenants.DeleteTenant(tenants_pb2.DeleteTenantRequest(tenant_id="alpha"))
    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    await calls.runs.GetRun(runs_pb2.GetRunRequest(run_id=started.run_id))


async def _audited(house: LiveCoordinator, caller: str, tenant: str, chain: Chain) -> None:
    """Audits a whole log, with a checkpoint of just now."""
    service = evidence(house, caller)
    note = await service.GetCheckpoint(evidence_pb2.GetCheckpointRequest())
    found = await all_entries(service, with_items=True)
    report = audit(
        [LogEntry(index=it.index, entry=it.entry, items=list(it.items)) for it in found],
        tenant=tenant,
        chain=chain,
        checkpoints=[note.checkpoint],
    )
    assert report.faults == ()
    assert report.checkpoints == 1
