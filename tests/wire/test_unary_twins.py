"""LeaseTasks, RenewLeases and SettleTasks: the same engine as the stream, one call at a time."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.wire.by_hand import STOPPED, hand_agent, ref, success
from tests.wire.conftest import Install
from tests.wire.installation import TENANT, Installation
from tests.wire.raw import Before

from tenure.v1 import agents_pb2, runs_pb2
from tenure_client import payload
from tenure_client.builder import Retry, Workflow
from tenure_client.client import Client

HELD = agents_pb2.STANDING_HELD
LOST = agents_pb2.STANDING_LOST
ROOT = Path(__file__).parents[2]


async def begin(client: Client, name: str, *, attempts: int = 1) -> str:
    """Starts a run of two tasks in a row of the kind `name`."""
    retry = Retry(max_attempts=attempts, initial_delay="1ms")
    with Workflow(name) as workflow:
        first = workflow.task("first", kind=name, input={"big": 2**60}, retry=retry)
        workflow.task("second", kind=name, after=[first])
    await client.register_workflow(workflow.definition())
    return (await client.start_run(name, input="for all")).run_id


async def test_a_task_is_leased_renewed_and_settled_and_its_output_passed_on(
    house: Installation,
) -> None:
    """The whole cycle, and a repeat of the last word."""
    async with house.client() as admin, hand_agent(house) as agent:
        run_id = await begin(admin, "cycle")
        (first,) = await agent.lease("cycle")
        assert (first.run_id, first.task_key, first.attempt, first.term) == (run_id, "first", 1, 1)
        assert payload.decode(first.input) == {"big": 2**60}
        assert await agent.renew(ref(first), checkpoint=b"[1]") == HELD
        assert await agent.settle(ref(first), success(b"9007199254740993")) == "APPLIED"
        assert await agent.settle(ref(first), success(b"9007199254740993")) == "ALREADY_APPLIED"
        assert await agent.renew(ref(first)) == LOST
        (second,) = await agent.lease("cycle")
        assert payload.decode(second.upstream["first"]) == 9007199254740993
        assert await agent.settle(ref(second), success(b"null")) == "APPLIED"
        run = await admin.wait_run(run_id)
        assert run.state == runs_pb2.RUN_STATE_SUCCEEDED
        assert await agent.settle(ref(second), success(b"null")) == "ALREADY_APPLIED"
        output = (await admin.get_task(run_id, "second")).output
        assert output.data == b"null"


async def test_a_waiting_call_gets_its_lease_as_soon_as_there_is_one(house: Installation) -> None:
    """It need not ask again; and one that waits in vain gets nothing."""
    async with house.client() as admin, hand_agent(house) as agent:
        assert await agent.lease("awaited", wait_seconds=0) == []
        asking = asyncio.create_task(agent.lease("awaited", wait_seconds=30))
        run_id = await begin(admin, "awaited")
        (lease,) = await asking
        assert lease.run_id == run_id
        await admin.cancel_run(run_id)
        assert await agent.settle(ref(lease), STOPPED) == "APPLIED"


async def test_only_the_very_lease_and_its_first_result_count(house: Installation) -> None:
    """Forged, foreign, invented and second results are told what they are, and change nothing."""
    async with house.client() as admin, house.client("operator") as operator:
        made = await operator.create_key("other", roles=[3], tenant_ids=[TENANT])  # type: ignore[list-item]
        run_id = await begin(admin, "forged")
        async with hand_agent(house) as agent, hand_agent(house, secret=made.secret) as other:
            (lease,) = await agent.lease("forged")
            before = Before(house.folder / "tenure.db")
            forged = ref(lease, token=bytes(len(lease.token)))
            assert await agent.settle(forged, success(b"1")) == "UNKNOWN"
            assert await agent.settle(ref(lease, term=9), success(b"1")) == "UNKNOWN"
            assert await agent.settle(ref(lease, task_key="second"), success(b"1")) == "UNKNOWN"
            assert await agent.settle(ref(lease, task_key="none"), success(b"1")) == "UNKNOWN"
            assert await other.settle(ref(lease), success(b"1")) == "UNKNOWN"
            assert await other.renew(ref(lease), checkpoint=b"1") == LOST
            assert await agent.renew(forged, checkpoint=b"1") == LOST
            before.check()
            assert await agent.settle(ref(lease), success(b"1")) == "APPLIED"
            before = Before(house.folder / "tenure.db")
            assert await agent.settle(ref(lease), success(b"2")) == "SUPERSEDED"
            assert await agent.settle(ref(lease), "Error") == "SUPERSEDED"
            assert await agent.settle(forged, success(b"1")) == "UNKNOWN"
            before.check()
        await admin.cancel_run(run_id)


async def test_results_in_one_call_are_judged_one_by_one(house: Installation) -> None:
    """The same result twice in one batch is applied once."""
    async with house.client() as admin, hand_agent(house) as agent:
        run_id = await begin(admin, "batch")
        (lease,) = await agent.lease("batch")
        good = agents_pb2.Result(lease=ref(lease), success=success(b"1"))
        bad = agents_pb2.Result(lease=ref(lease, token=b"x"), success=success(b"1"))
        assert await agent.settle_all([bad, good, good]) == [
            "UNKNOWN",
            "APPLIED",
            "ALREADY_APPLIED",
        ]
        await admin.cancel_run(run_id)


async def test_results_for_a_cancelled_run_are_closed_out(house: Installation) -> None:
    """While a lease is live its end counts; afterwards nothing does."""
    async with house.client() as admin, hand_agent(house) as agent:
        run_id = await begin(admin, "cancelled")
        (lease,) = await agent.lease("cancelled")
        assert await admin.cancel_run(run_id) == runs_pb2.RUN_STATE_CANCELLING
        assert await agent.renew(ref(lease)) == agents_pb2.STANDING_CANCELLING
        assert await agent.settle(ref(lease), STOPPED) == "APPLIED"
        run = await admin.get_run(run_id)
        assert (run.state, run.tasks.cancelled) == (runs_pb2.RUN_STATE_CANCELLED, 2)
        before = Before(house.folder / "tenure.db")
        assert await agent.settle(ref(lease), success(b"1")) == "RUN_CLOSED"
        assert await agent.settle(ref(lease), STOPPED) == "ALREADY_APPLIED"
        assert await agent.settle(ref(lease, token=b"x"), success(b"1")) == "UNKNOWN"
        before.check()


async def test_an_output_that_cannot_be_kept_fails_the_attempt(house: Installation) -> None:
    """Too large or no JSON: the agent is told, and the attempt has failed."""
    async with house.client() as admin, hand_agent(house) as agent:
        for content in (b"{", b'"' + b"x" * (1 << 20) + b'"'):
            run_id = await begin(admin, "unkept")
            (lease,) = await agent.lease("unkept")
            assert await agent.settle(ref(lease), success(content)) == "OUTPUT_REFUSED"
            task = await admin.get_task(run_id, "first")
            assert (task.state, task.failure.code) == (runs_pb2.TASK_STATE_FAILED, "OUTPUT_INVALID")


async def test_a_stale_term_is_superseded_and_changes_nothing(install: Install) -> None:
    """Whoever lost a lease has nothing to say about the attempt that came after it."""
    installation = install("--lease-seconds", "2")
    async with installation.client() as admin, hand_agent(installation) as agent:
        run_id = await begin(admin, "stale")
        (stale,) = await agent.lease("stale")
        (fresh,) = await agent.lease("stale")  # comes when the first one has expired
        assert (fresh.task_key, fresh.term, fresh.attempt) == ("first", 2, 1)
        before = Before(installation.folder / "tenure.db")
        assert await agent.settle(ref(stale), success(b'"late"')) == "SUPERSEDED"
        assert await agent.renew(ref(stale), checkpoint=b"1") == LOST
        before.check()
        assert await agent.settle(ref(fresh), success(b'"in time"')) == "APPLIED"
        assert (await admin.get_task(run_id, "first")).output.data == b'"in time"'


async def test_a_late_result_still_counts_while_nobody_else_has_the_task(install: Install) -> None:
    """The work is done: to do it again would help nobody."""
    installation = install("--lease-seconds", "1")
    async with installation.client() as admin, hand_agent(installation) as agent:
        run_id = await begin(admin, "late")
        (lease,) = await agent.lease("late")
        lost = [event async for event in _until_lost(admin, run_id)]
        assert lost[-1].kind == runs_pb2.RUN_EVENT_KIND_TASK_LEASE_LOST
        assert await agent.settle(ref(lease), success(b"1")) == "APPLIED"
        assert (await admin.get_task(run_id, "first")).attempt == 1


async def _until_lost(client: Client, run_id: str) -> Any:
    async for event in client.watch_run(run_id):
        yield event
        if event.kind == runs_pb2.RUN_EVENT_KIND_TASK_LEASE_LOST:
            return


async def buf(*arguments: str) -> str:
    """Executes `buf`, and gives what it wrote."""
    program = shutil.which("buf", path=str(Path(sys.executable).parent)) or shutil.which("buf")
    if program is None:
        pytest.skip("needs buf: pip install buf-bin")
    process = await asyncio.create_subprocess_exec(
        *(program, *arguments),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaints = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, complaints.decode()
    return said.decode()


class Curl:
    """`buf curl` at a prompt: JSON in, JSON out."""

    def __init__(self, address: str, secret: str, *schema: str) -> None:
        self._address = address
        self._secret = secret
        self._schema = schema

    async def __call__(self, method: str, request: dict[str, Any]) -> dict[str, Any]:
        """Makes one call."""
        said = await buf(
            *("curl", "--protocol", "grpc", "--http2-prior-knowledge", *self._schema),
            *("-H", f"authorization: Bearer {self._secret}", "-d", json.dumps(request)),
            f"http://{self._address}/tenure.v1.{method}",
        )
        answer: dict[str, Any] = json.loads(said)
        return answer


@pytest.mark.parametrize("way", ["reflect", "file"])
async def test_people_at_a_prompt_can_be_client_and_agent(
    way: str, house: Installation, tmp_path: Path
) -> None:
    """With values as JSON writes them, by the schema or by reflection."""
    schema: tuple[str, ...] = ("--reflect",)
    if way == "file":
        # Compiled once: given the folder, each call would compile it anew.
        image = str(tmp_path / "contract.binpb")
        await buf("build", "--path", "protos/tenure", "--output", image)
        schema = ("--schema", image)
    address = house.coordinator.address
    person = Curl(address, await house.secret("admin"), *schema)
    agent = Curl(address, await house.secret("agent"), *schema)
    kind = f"prompt-{way}"
    task = {"key": "only", "kind": kind, "input": {"value": {"path": "a.txt", "n": 3}}}
    await person("Workflows/RegisterWorkflow", {"definition": {"name": kind, "tasks": [task]}})
    started = await person("Runs/StartRun", {"workflow": kind, "input": {"value": [1, "two"]}})
    leased = await agent("Agents/LeaseTasks", {"agent": "prompt", "kinds": [kind], "wait": "20s"})
    (lease,) = leased["batch"]["leases"]
    named = {word: lease[word] for word in ("runId", "taskKey", "term", "token")}
    assert named["runId"] == started["runId"]
    renewed = await agent("Agents/RenewLeases", {"renewals": [{"lease": named, "progress": 0.5}]})
    assert renewed["standings"][0]["standing"] == "STANDING_HELD"
    result = {"lease": named, "success": {"output": {"value": {"lines": 12}}}}
    settled = await agent("Agents/SettleTasks", {"results": [result]})
    assert settled["outcomes"][0]["verdict"] == "VERDICT_APPLIED"
    async with house.client() as admin:
        run = await admin.wait_run(started["runId"])
        assert run.state == runs_pb2.RUN_STATE_SUCCEEDED
        assert payload.decode(run.input) == [1, "two"]
        output = (await admin.get_task(run.run_id, "only")).output
        assert payload.decode(output) == {"lines": 12}
