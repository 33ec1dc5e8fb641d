"""Attempts: whatever a handler does, it costs its own attempt and nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.agent.conftest import wait_for_end
from tests.agent.fake_coordinator import key_of, new_lease
from tests.agent.trial import StartTrial, failure, output

import tenure_agent
from tenure.v1 import agents_pb2, payload_pb2
from tenure_agent import children, commands
from tenure_agent.context import TaskContext
from tenure_agent.handlers import Coroutine, Handler, Threaded
from tenure_agent.runner import StopCause

NOT_JSON = "stdout: not JSON: unexpected character, expected a JSON value: line 1 column 1 (char 0)"


def command(*argv: str, cwd: Path = Path("/"), **env: str) -> commands.Command:
    return commands.Command(argv=argv, cwd=cwd, env={"PATH": os.environ["PATH"], **env})


def shell(script: str) -> commands.Command:
    return command("sh", "-c", script)


# --- Built-in kinds -------------------------------------------------------------------------------


async def test_the_built_in_kinds_do_what_they_say(trial: StartTrial) -> None:
    it = trial()
    noop = await it.result("tenure.noop")
    assert noop.WhichOneof("end") == "success"
    assert not noop.success.HasField("output")
    assert output(await it.result("tenure.echo", {"a": 2**60})) == {"a": 2**60}
    assert failure(await it.result("tenure.fail", {"code": "C", "message": "m"})) == (
        "C",
        "m",
        False,
    )
    assert failure(await it.result("tenure.fail"))[0] == "FAILED"
    trace = await it.result("tenure.trace", {"seconds": 0.01, "name": "x"})
    assert not trace.success.HasField("output")


@pytest.mark.parametrize("value", [None, {}, {"seconds": "1"}, {"seconds": -1}, {"seconds": True}])
async def test_a_trace_without_a_time_fails_for_good(trial: StartTrial, value: Any) -> None:
    code, _, final = failure(await trial().result("tenure.trace", value))
    assert (code, final) == ("INPUT_INVALID", True)


async def test_a_trace_waits_for_its_scaled_time(trial: StartTrial) -> None:
    """Scaled by the run's input; a day at a scale of nothing is over at once."""
    it = trial()
    lease = new_lease("scaled", "tenure.trace")
    lease.input.data = b'{"seconds": 86400}'
    run = agents_pb2.RunContext(run_id="run")
    run.input.data = b'{"time_scale": 0.0000001}'
    it.ended[key_of(lease)] = asyncio.get_running_loop().create_future()
    assert it.runner.start(key_of(lease), lease, run) is None
    ended = await it.end(key_of(lease))
    assert ended is not None
    assert ended.WhichOneof("end") == "success"


async def test_a_kind_without_a_handler_fails_for_good(trial: StartTrial) -> None:
    assert failure(await trial().result("nonsense")) == (
        "KIND_UNKNOWN",
        "no handler: nonsense",
        True,
    )


# --- Python handlers ------------------------------------------------------------------------------


def both(function: Callable[[TaskContext, Any], Any]) -> list[Handler]:
    """A body as an async and as a plain handler."""

    async def as_coroutine(ctx: TaskContext, value: Any) -> Any:
        return function(ctx, value)

    return [Coroutine(as_coroutine), Threaded(function)]


def raising(error: BaseException) -> Callable[[TaskContext, Any], Any]:
    def function(ctx: TaskContext, value: Any) -> Any:
        raise error

    return function


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise ValueError("not even this")


async def test_a_handler_is_told_about_its_task(trial: StartTrial) -> None:
    seen: list[dict[str, Any]] = []

    def handler(ctx: TaskContext, value: Any) -> Any:
        names = ("run_id", "task_key", "attempt", "tenant_id", "workflow", "correlation_id")
        facts = {name: getattr(ctx, name) for name in names}
        seen.append(facts | {"input": value, "cancelled": ctx.cancelled})
        return [ctx.run_input, ctx.upstream, ctx.checkpoint]

    for handler_kind in both(handler):
        seen.clear()
        upstream = {"up": payload_pb2.Payload(data=b"[1]")}
        it = trial(it=handler_kind)
        ended = await it.result(
            "it", 2**80, upstream=upstream, checkpoint=payload_pb2.Payload(data=b'"c"'), attempt=3
        )
        assert output(ended) == [{"n": 7}, {"up": [1]}, "c"]
        (facts,) = seen
        assert facts["input"] == 2**80
        assert (facts["tenant_id"], facts["workflow"], facts["attempt"]) == ("acme", "trial", 3)
        assert facts["cancelled"] is False


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no"), ("ValueError", "no", False)),
        (KeyError(), ("KeyError", "KeyError()", False)),
        (SystemExit(3), ("SystemExit", "3", False)),
        (KeyboardInterrupt(), ("KeyboardInterrupt", "KeyboardInterrupt()", False)),
        (tenure_agent.Stopped("me"), ("Stopped", "me", False)),
        (asyncio.CancelledError(), ("CancelledError", "CancelledError()", False)),
        (tenure_agent.NonRetryable("BAD", "never"), ("BAD", "never", True)),
        (ValueError("x" * 9000), ("ValueError", "x" * 4000, False)),
        (ValueError("\ud800"), ("ValueError", "?", False)),
        (UnprintableError(), ("UnprintableError", "an exception that cannot be printed", False)),
        (MemoryError(), ("MemoryError", "MemoryError()", False)),
    ],
)
async def test_whatever_a_handler_raises_fails_its_attempt_only(
    trial: StartTrial, error: BaseException, expected: tuple[str, str, bool]
) -> None:
    for handler in both(raising(error)):
        it = trial(it=handler)
        assert failure(await it.result("it")) == expected
        assert output(await it.result("tenure.echo", 1)) == 1
        assert it.freed == 1


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), b"bytes", "x" * (2**20 + 1)])
async def test_an_output_that_is_no_payload_fails_for_good(trial: StartTrial, value: Any) -> None:
    for handler in both(lambda ctx, _: value):
        code, message, final = failure(await trial(it=handler).result("it"))
        assert (code, final) == ("OUTPUT_INVALID", True)
        assert message.startswith("output: ")


async def test_an_input_that_does_not_parse_fails_for_good(trial: StartTrial) -> None:
    for handler in both(lambda ctx, value: 1):
        broken = payload_pb2.Payload(data=b"{")
        code, _, final = failure(await trial(it=handler).result("it", input=broken))
        assert (code, final) == ("INPUT_INVALID", True)


async def test_megabytes_on_stdout_harm_nothing(
    trial: StartTrial, capsys: pytest.CaptureFixture[str]
) -> None:
    for handler in both(lambda ctx, value: print("x" * 5_000_000)):
        ended = await trial(it=handler).result("it")
        assert ended.WhichOneof("end") == "success"
        assert len(capsys.readouterr().out) == 5_000_001


async def test_an_async_handler_out_of_time_is_cancelled(trial: StartTrial) -> None:
    async def hang(ctx: TaskContext, value: Any) -> None:
        await asyncio.Event().wait()

    ended = await trial(it=Coroutine(hang)).result("it", attempt_timeout={"nanos": 50_000_000})
    assert failure(ended) == ("TIMED_OUT", "the attempt took longer than 0.05 s", False)


async def test_a_plain_handler_stops_where_it_looks(trial: StartTrial) -> None:
    looks = threading.Event()

    def handler(ctx: TaskContext, value: Any) -> None:
        while True:
            ctx.raise_if_cancelled()
            looks.wait(0.005)

    it = trial(it=Threaded(handler))
    key = it.start("it")
    it.runner.stop(key, StopCause.CANCELLED)
    ended = await it.end(key)
    assert ended is not None
    assert ended.WhichOneof("end") == "stopped"
    assert it.freed == 1


async def test_a_plain_handler_that_hangs_costs_its_attempt_only(trial: StartTrial) -> None:
    """It is given up: its slot is used again at once, although its thread still runs."""
    release = threading.Event()
    it = trial(it=Threaded(lambda ctx, value: release.wait()), ok=Threaded(lambda ctx, value: 1))
    ended = await it.result("it", attempt_timeout={"nanos": 20_000_000})
    assert failure(ended)[0] == "TIMED_OUT"
    assert it.freed == 1
    assert output(await it.result("ok")) == 1
    release.set()


async def test_only_as_many_are_given_up_as_there_are_slots(trial: StartTrial) -> None:
    release = threading.Event()
    it = trial(slots=1, it=Threaded(lambda ctx, value: release.wait()))
    for expected in (1, 1):
        await it.result("it", attempt_timeout={"nanos": 1_000_000})
        assert it.freed == expected
    it.any_freed.clear()
    release.set()
    async with asyncio.timeout(60):
        await it.any_freed.wait()
    assert it.freed == 2


async def test_an_async_handler_that_swallows_its_cancellation_is_given_up(
    trial: StartTrial,
) -> None:
    release = asyncio.Event()

    async def stubborn(ctx: TaskContext, value: Any) -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    it = trial(it=Coroutine(stubborn))
    assert failure(await it.result("it", attempt_timeout={"nanos": 1_000_000}))[0] == "TIMED_OUT"
    release.set()


async def test_an_attempt_stopped_before_its_first_step_ends_too(trial: StartTrial) -> None:
    async def never(ctx: TaskContext, value: Any) -> None:
        raise AssertionError("it was stopped before")

    it = trial(it=Coroutine(never))
    key = it.start("it")
    it.runner.stop(key, StopCause.CANCELLED)
    ended = await it.end(key)
    assert ended is not None
    assert ended.WhichOneof("end") == "stopped"


async def test_what_was_finished_although_it_was_stopped_counts(trial: StartTrial) -> None:
    async def finishes(ctx: TaskContext, value: Any) -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return 42
        return 0

    began = trial(it=Coroutine(finishes))
    key = began.start("it")
    await asyncio.sleep(0)
    began.runner.stop(key, StopCause.CANCELLED)
    ended = await began.end(key)
    assert ended is not None
    assert output(ended) == 42


async def test_a_lost_lease_has_no_result(trial: StartTrial) -> None:
    async def hang(ctx: TaskContext, value: Any) -> None:
        await asyncio.Event().wait()

    it = trial(it=Coroutine(hang))
    key = it.start("it")
    it.runner.stop(key, StopCause.CANCELLED)
    it.runner.stop(key, StopCause.LOST)
    assert await it.end(key) is None
    assert it.freed == 1


async def test_words_of_a_thread_reach_the_loop(trial: StartTrial) -> None:
    release = threading.Event()

    def handler(ctx: TaskContext, value: Any) -> None:
        for step in range(1000):
            ctx.progress(step / 1000, "working")
        ctx.save_checkpoint([1])
        release.wait()

    it = trial(it=Threaded(handler))
    key = it.start("it")
    async with asyncio.timeout(60):
        while (key, True) not in it.words:
            it.spoke.clear()
            await it.spoke.wait()
    words = it.runner.running[key].words
    assert words.progress == (0.999, "working")
    assert words.checkpoint == payload_pb2.Payload(data=b"[1]")
    release.set()
    await it.end(key)


async def test_progress_and_checkpoints_that_make_no_sense_fail_the_attempt(
    trial: StartTrial,
) -> None:
    table = {
        "nan": Threaded(lambda ctx, value: ctx.progress(float("nan"))),
        "object": Threaded(lambda ctx, value: ctx.save_checkpoint(object())),
        "large": Threaded(lambda ctx, value: ctx.save_checkpoint("x" * 2**20)),
    }
    it = trial(**table)
    assert failure(await it.result("nan"))[0] == "ValueError"
    assert failure(await it.result("object"))[0] == "PayloadError"
    assert failure(await it.result("large"))[0] == "PayloadError"


# --- Commands -------------------------------------------------------------------------------------


async def test_a_command_finds_its_task_on_stdin(trial: StartTrial) -> None:
    it = trial(it=command("cat"))
    ended = await it.result(
        "it", {"n": 2**80}, upstream={'a"b': payload_pb2.Payload(data=b"1.10")}, attempt=2
    )
    document = output(ended)
    assert document["input"] == {"n": 2**80}
    assert document["run_input"] == {"n": 7}
    assert document["upstream"] == {'a"b': 1.1}
    assert document["checkpoint"] is None
    assert (document["task_key"], document["attempt"]) == ("t0", 2)
    assert b"1.10" in ended.success.output.data, "numbers are handed on as they were written"


async def test_a_command_sees_only_the_variables_it_may(
    trial: StartTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_TEST_SECRET", "secret")
    script = "import json, os; print(json.dumps(dict(os.environ)))"
    it = trial(it=command(sys.executable, "-c", script, LANG="C"))
    seen = output(await it.result("it"))
    assert "AGENT_TEST_SECRET" not in seen
    assert (seen["LANG"], seen["TENURE_TENANT"], seen["TENURE_TASK_KEY"]) == ("C", "acme", "t0")


async def test_a_command_without_output_has_none(trial: StartTrial) -> None:
    ended = await trial(it=command("true")).result("it")
    assert ended.WhichOneof("end") == "success"
    assert not ended.success.HasField("output")


async def test_a_command_may_leave_a_large_input_unread(trial: StartTrial) -> None:
    ended = await trial(it=command("true")).result("it", "x" * 1_000_000)
    assert ended.WhichOneof("end") == "success"
    echo = await trial(it=command("cat")).result("it", "x" * 1_000_000)
    assert len(output(echo)["input"]) == 1_000_000


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo oh >&2; exit 3", ("EXIT_3", "oh", False)),
        ("exit 1", ("EXIT_1", "ended with exit code 1", False)),
        ("echo dying >&2; kill -9 $$", ("SIGNAL_KILL", "dying", False)),
        ("kill -9 -$$", ("SIGNAL_KILL", "was ended by signal KILL", False)),
        ("kill -SEGV $$", ("SIGNAL_SEGV", "was ended by signal SEGV", False)),
        ("yes", ("OUTPUT_INVALID", "stdout: more than 1048576 bytes", True)),
        (
            "echo hello",
            (
                "OUTPUT_INVALID",
                NOT_JSON,
                True,
            ),
        ),
    ],
)
async def test_a_command_that_fails_says_how(
    trial: StartTrial, script: str, expected: tuple[str, str, bool]
) -> None:
    assert failure(await trial(it=shell(script)).result("it")) == expected


async def test_only_the_tail_of_stderr_is_kept(trial: StartTrial) -> None:
    script = "yes | head -c 5000000 >&2; echo the end >&2; exit 1"
    _, message, _ = failure(await trial(it=shell(script)).result("it"))
    assert len(message) == 4000


async def test_a_program_that_is_gone_fails_its_attempt(trial: StartTrial) -> None:
    code, message, _ = failure(await trial(it=command("/no/such/program")).result("it"))
    assert code == "COMMAND_NOT_STARTED"
    assert message.startswith("/no/such/program: cannot be started")


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A pipe through which a command tells the test something."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


async def told(fifo: Path) -> str:
    """Waits for what a command writes into a pipe."""
    async with asyncio.timeout(60):
        return await asyncio.to_thread(fifo.read_text)


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "])
async def test_the_whole_group_of_a_command_out_of_time_is_killed(
    trial: StartTrial, fifo: Path, trap: str
) -> None:
    """With TERM, or with KILL when it does not care."""
    script = f"{trap}sleep 60 & echo $$ $! > {fifo}; wait; wait; sleep 60"
    it = trial(it=shell(script))
    key = it.start("it")
    group = [int(word) for word in (await told(fifo)).split()]
    it.runner.stop(key, StopCause.TIMED_OUT)
    ended = await it.end(key)
    assert ended is not None
    assert failure(ended)[0] == "TIMED_OUT"
    for pid in group:
        await wait_for_end(pid)


async def test_what_a_command_leaves_behind_is_killed(trial: StartTrial, tmp_path: Path) -> None:
    it = trial(it=shell(f"sleep 60 & echo $! > {tmp_path}/pid; echo 1"))
    assert output(await it.result("it")) == 1
    await wait_for_end(int((tmp_path / "pid").read_text()))


async def test_a_command_that_ends_well_on_term_is_stopped_all_the_same(
    trial: StartTrial, fifo: Path
) -> None:
    """Nobody can tell a whole output from a half one then."""
    script = f"trap 'echo 1; exit 0' TERM; echo > {fifo}; while :; do sleep 0.01; done"
    it = trial(it=shell(script))
    key = it.start("it")
    await told(fifo)
    it.runner.stop(key, StopCause.CANCELLED)
    ended = await it.end(key)
    assert ended is not None
    assert ended.WhichOneof("end") == "stopped"


async def test_a_command_stopped_while_it_starts_leaves_nothing(
    trial: StartTrial, tmp_path: Path
) -> None:
    it = trial(it=shell(f"echo $$ > {tmp_path}/pid; exec sleep 60"))
    key = it.start("it")
    await asyncio.sleep(0)
    it.runner.stop(key, StopCause.CANCELLED)
    ended = await it.end(key)
    assert ended is not None
    assert ended.WhichOneof("end") == "stopped"
    if (tmp_path / "pid").exists() and (text := (tmp_path / "pid").read_text()):
        await wait_for_end(int(text))


def test_signals_have_their_plain_names() -> None:
    assert children.signal_name(signal.SIGKILL) == "KILL"
    assert children.signal_name(63) == "63"
