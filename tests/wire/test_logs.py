"""What is logged: enough to follow a task through both processes, and never a secret."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.wire.by_hand import hand_agent, ref, success
from tests.wire.conftest import Install
from tests.wire.installation import TENANT, Installation, until

from tenure.v1 import runs_pb2
from tenure_client.builder import Retry, Workflow
from tenure_client.errors import TenureError

CORRELATION = "traced-by-the-test"


def secrets_of(installation: Installation, more: Iterable[bytes]) -> list[bytes]:
    """Everything that must not be found anywhere, in the forms in which it could be written."""
    keys = [
        path.read_bytes() for agent in installation.agents for path in agent.folder.glob("*.key")
    ]
    keys.append(installation.operator_secret().encode())
    tokens = [form for token in more for form in (token, token.hex().encode(), _repr(token))]
    tokens += [base64.b64encode(token) for token in more]
    return [*keys, *(key.removeprefix(b"tnr_") for key in keys), *tokens]


def _repr(token: bytes) -> bytes:
    return repr(token)[2:-1].encode()


async def test_lines_about_a_task_tell_which_one_and_lead_back_to_the_call(
    install: Install, tmp_path: Path
) -> None:
    """In the coordinator's log and in the agent's."""
    installation = install("--log-level", "debug", "--lease-seconds", "2")
    agent = await installation.add_agent()
    with Workflow("traced") as workflow:
        retry = Retry(max_attempts=2, initial_delay="1ms")
        workflow.task("shaky", kind="count", input=2, retry=retry)
        workflow.task("cut", kind="hold", input=str(tmp_path))
        workflow.task("broken", kind="tenure.fail", input={"code": "BROKEN"})
    async with installation.client("admin", correlation_id=CORRELATION) as client:
        await client.register_workflow(workflow.definition())
        run_id = (await client.start_run("traced")).run_id
        await until((tmp_path / "cut.1.began").exists, "the task begins")
        await client.cancel_run(run_id, reason="seen enough")
        run = await client.wait_run(run_id)
        assert run.state == runs_pb2.RUN_STATE_CANCELLED
    agent.terminate()
    assert await agent.ended() == 0
    installation.coordinator.terminate()
    assert await installation.coordinator.ended() == 0
    wanted = {"correlation_id": CORRELATION, "tenant": TENANT, "run_id": run_id}
    for process in (installation.coordinator, agent):
        about_tasks = [line for line in process.log_lines() if "task_key" in line]
        assert about_tasks, process.name
        for line in about_tasks:
            assert wanted.items() <= line.items(), line
            assert line["attempt"] >= 1 or line["event"] == "task cancelled", line
    about_runs = [line for line in installation.coordinator.log_lines() if "run_id" in line]
    assert {line["event"] for line in about_runs} >= {"run started", "run cancelled"}
    assert all(wanted.items() <= line.items() for line in about_runs)
    assert {"shaky", "cut"} <= {line.get("task_key") for line in agent.log_lines()}


async def test_lines_about_a_call_tell_who_called(house: Installation) -> None:
    """Refusals among them; with the caller's own correlation id."""
    async with house.client("admin", correlation_id=CORRELATION) as client:
        with pytest.raises(TenureError) as refused:
            await client.start_run("unheard-of")
        assert refused.value.correlation_id == CORRELATION
        key = await client.get_caller()
    (line,) = house.coordinator.logged("call refused", correlation_id=CORRELATION)
    assert (
        line.items()
        >= {
            "tenant": TENANT,
            "api_key_id": key.api_key_id,
            "method": "/tenure.v1.Runs/StartRun",
            "reason": "NOT_FOUND",
        }.items()
    )


async def test_no_secret_is_logged_or_kept_in_clear(install: Install, tmp_path: Path) -> None:
    """Neither keys nor lease tokens, in no log, nor in the database with all its side files."""
    installation = install("--log-level", "debug")
    agent = await installation.add_agent()
    with Workflow("secret") as workflow:
        workflow.task("by-agent", kind="add-up", input="raises")
        workflow.task("by-hand", kind="nobody", input=1)
    async with installation.client() as client, hand_agent(installation) as hand:
        await client.register_workflow(workflow.definition())
        run_id = (await client.start_run("secret")).run_id
        (lease,) = await hand.lease("nobody")
        assert await hand.settle(ref(lease, token=b"forged"), success(b"1")) == "UNKNOWN"
        assert await hand.settle(ref(lease), success(b"1")) == "APPLIED"
        await client.wait_run(run_id)
    await asyncio.to_thread(installation.coordinator.kill)
    await asyncio.to_thread(installation.coordinator.start)
    secrets = secrets_of(installation, [lease.token])
    places = [agent.log_file, installation.coordinator.log_file]
    places += installation.folder.glob("tenure.db*")
    assert len(places) >= 4
    for place in places:
        content = place.read_bytes()
        for secret in secrets:
            assert secret not in content, f"a secret stands in {place.name}"
