"""Workflows are tested with handlers of the test and a clock that jumps."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tenure_client import builder, testing
from tenure_client.errors import TenureError
from tenure_client.testing import Environment, TaskContext


def reminder() -> builder.Workflow:
    workflow = builder.Workflow("reminder")
    month = workflow.timer("month", "30d")
    workflow.task("send", kind="send", after=[month])
    return workflow


def asking(**approval: Any) -> builder.Workflow:
    workflow = builder.Workflow("asking")
    workflow.approval("ask", "May it go out?", **approval)
    workflow.task("send", kind="send", after=["ask"])
    return workflow


async def test_a_month_passes_in_no_time_and_exactly(tenure_environment: Environment) -> None:
    began, real = tenure_environment.now(), time.monotonic()
    run = await tenure_environment.run(reminder(), handlers={"send": "sent"})
    assert (run.state, run.output("send")) == ("SUCCEEDED", "sent")
    assert run.took == timedelta(days=30)
    assert tenure_environment.now() - began == timedelta(days=30)
    assert time.monotonic() - real < 30


async def test_time_stands_still_while_nobody_waits(tenure_environment: Environment) -> None:
    run = await tenure_environment.start(reminder(), handlers={"send": "sent"})
    began = tenure_environment.now()
    await asyncio.sleep(0.05)
    await run.refresh()
    assert (run.task("month").state, run.took) == ("ACTIVE", timedelta())
    await tenure_environment.advance("29d")
    assert (await run.refresh()).task("month").state == "ACTIVE"
    assert tenure_environment.now() - began == timedelta(days=29)
    await tenure_environment.advance("1d")
    assert (await run.refresh()).state == "SUCCEEDED"


async def test_retries_wait_in_the_time_of_the_test(tenure_environment: Environment) -> None:
    attempts: list[int] = []

    async def flaky(ctx: TaskContext, value: Any) -> Any:
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ConnectionError("no line")
        return {"got": value["x"]}

    workflow = builder.Workflow("flaky")
    retry = builder.Retry(max_attempts=3, initial_delay="1h", max_delay="1d", jitter=0)
    workflow.task("fetch", kind="fetch", input={"x": 1}, retry=retry)
    run = await tenure_environment.run(workflow, handlers={"fetch": flaky})
    assert attempts == [1, 2, 3]
    assert run.output("fetch") == {"got": 1}
    assert run.took == timedelta(hours=3)
    assert run.order("TASK_RETRYING") == ["fetch", "fetch"]


async def test_a_pause_and_a_cancel_hold_as_they_do_in_earnest(
    tenure_environment: Environment,
) -> None:
    env = tenure_environment
    run = await env.start(reminder(), handlers={"send": "sent"})
    await env.client.pause_workflow("reminder", reason="look first")
    await env.advance("40d")
    # The timer went on; what comes behind it waits.
    assert (await run.refresh()).task("month").state == "SUCCEEDED"
    assert run.task("send").state == "READY"
    other = await env.start(reminder())
    await env.client.cancel_run(other.run_id, reason="not this one")
    await env.client.resume_workflow("reminder")
    await run.wait()
    assert (run.state, run.took) == ("SUCCEEDED", timedelta(days=40))
    assert (await other.refresh()).state == "CANCELLED"


async def test_what_a_fake_raises_is_the_failure(tenure_environment: Environment) -> None:
    workflow = builder.Workflow("failing")
    retry = builder.Retry(max_attempts=9)
    workflow.task("pay", kind="pay", retry=retry)
    workflow.task("after", kind="tenure.noop", after=["pay"])
    refused = testing.NonRetryable("CARD_REFUSED", "by the bank")
    run = await tenure_environment.run(workflow, handlers={"pay": refused})
    pay = run.task("pay")
    assert (run.state, pay.state, pay.attempts) == ("FAILED", "FAILED", 1)
    assert (pay.code, pay.message) == ("CARD_REFUSED", "by the bank")
    assert run.task("after").state == "UPSTREAM_FAILED"


@pytest.mark.parametrize("by_whom", ["value", "both", "input", "nothing", "async"])
async def test_a_fake_takes_what_it_wants(tenure_environment: Environment, by_whom: str) -> None:
    async def in_the_loop(value: Any) -> Any:
        return value

    fakes: dict[str, Any] = {
        "value": {"n": 1},
        "both": lambda ctx, value: value,
        "input": lambda value: value,
        "nothing": lambda: {"n": 1},
        "async": in_the_loop,
    }
    workflow = builder.Workflow("one")
    workflow.task("it", kind="it", input={"n": 1})
    run = await tenure_environment.run(workflow, handlers={"it": fakes[by_whom]})
    assert run.output("it") == {"n": 1}


async def test_the_test_decides_in_the_middle_of_a_run(tenure_environment: Environment) -> None:
    env = tenure_environment
    run = await env.start(asking(timeout="7d"), handlers={"send": "sent"})
    await env.until(run, task="ask", state="ACTIVE")
    await env.advance("2d")
    await env.approve(run, "ask", by="ada")
    await run.wait()
    assert (run.state, run.took) == ("SUCCEEDED", timedelta(days=2))


async def test_an_appointment_is_kept_at_its_time(tenure_environment: Environment) -> None:
    env = tenure_environment
    run = await env.start(asking(timeout="7d"), handlers={"send": "sent"})
    env.at("3d", lambda: env.approve(run, "ask", by="ada"))
    await run.wait()
    assert (run.state, run.took) == ("SUCCEEDED", timedelta(days=3))


async def test_what_nobody_decides_expires(tenure_environment: Environment) -> None:
    run = await tenure_environment.run(asking(timeout="7d"), handlers={"send": "sent"})
    assert (run.state, run.task("ask").code) == ("FAILED", "APPROVAL_EXPIRED")
    assert run.took == timedelta(days=7)


async def test_a_wait_for_what_never_comes_says_so(tenure_environment: Environment) -> None:
    with pytest.raises(testing.Stuck, match="ask is ACTIVE; send is WAITING"):
        await tenure_environment.run(asking(), handlers={"send": "sent"})


async def test_signals_and_events_reach_a_run(tenure_environment: Environment) -> None:
    env = tenure_environment
    workflow = builder.Workflow("listening")
    workflow.signal("go", "go")
    workflow.event("paid", "paid", of="run.input.order")
    run = await env.start(workflow, input={"order": "o-1"})
    env.at("1h", lambda: env.signal(run, "go", {"speed": 3}))
    env.at("2h", lambda: env.publish("paid", "o-1", {"sum": 10}))
    await run.wait()
    assert (run.output("go"), run.output("paid")) == ({"speed": 3}, {"sum": 10})
    assert run.took == timedelta(hours=2)


async def test_a_run_starts_its_children(tenure_environment: Environment) -> None:
    env = tenure_environment
    parent = builder.Workflow("parent")
    parent.call("child", "reminder")
    await env.register(reminder_with(env, "sent"))
    run = await env.run(parent)
    assert (run.state, run.took) == ("SUCCEEDED", timedelta(days=30))
    children = await env.runs("reminder")
    assert [child.output("send") for child in children] == ["sent"]


def reminder_with(env: Environment, sent: str) -> builder.Workflow:
    env.teach({"send": sent})
    return reminder()


async def test_a_missing_handler_is_named_before_anything_runs(
    tenure_environment: Environment,
) -> None:
    with pytest.raises(testing.MissingHandler, match="reminder: no handler for send"):
        await tenure_environment.run(reminder())
    assert await tenure_environment.runs() == []


async def test_tests_do_not_see_each_other(tenure_coordinator: testing.Coordinator) -> None:
    async with Environment(coordinator=tenure_coordinator) as env:
        run = await env.start(reminder(), handlers={"send": "sent"})
    async with Environment(coordinator=tenure_coordinator) as other:
        assert await other.runs() == []
        with pytest.raises(TenureError):
            await other.client.get_run(run.run_id)


def test_there_is_a_face_for_tests_that_are_not_async(
    tenure_coordinator: testing.Coordinator, tmp_path: Path
) -> None:
    file = tmp_path / "reminder.yaml"
    file.write_text("name: file\ntasks:\n  - {key: it, kind: it, input: {n: 1}}\n")
    run = testing.run(file, handlers={"it": lambda value: value}, coordinator=tenure_coordinator)
    assert run.output("it") == {"n": 1}
