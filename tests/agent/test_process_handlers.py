"""Functions in worker processes: what they do to their process costs their attempt only."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs
from tests.agent.conftest import wait_for_end
from tests.agent.isolation import StartIsolated, until_it_speaks
from tests.agent.trial import failure, output

from tenure.v1 import payload_pb2
from tenure_agent.runner import StopCause

# --- What a handler can do ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["report", "report_async"])
async def test_the_whole_context_works(start_isolated: StartIsolated, name: str) -> None:
    it = start_isolated(name)
    upstream = {"up": payload_pb2.Payload(data=b"[1]")}
    checkpoint = payload_pb2.Payload(data=b'"c"')
    key = it.start(name, 2**80, upstream=upstream, checkpoint=checkpoint, attempt=3)
    words = it.runner.running[key].words
    ended = await it.end(key)
    assert ended is not None
    value, run_input, seen, saved, cancelled, facts = output(ended)
    assert (value, run_input, seen, saved, cancelled) == (2**80, {"n": 7}, {"up": [1]}, "c", False)
    assert (facts["tenant_id"], facts["workflow"], facts["attempt"]) == ("acme", "trial", 3)
    assert (facts["task_key"], facts["correlation_id"]) == (key[1], "c1")
    assert words.progress == (0.5, "half way")
    assert words.checkpoint == payload_pb2.Payload(data=b'{"done":1}')
    assert {(key, True), (key, False)} <= set(it.words)


@pytest.mark.parametrize("name", ["fail", "fail_async"])
async def test_whatever_a_handler_raises_fails_its_attempt_only(
    start_isolated: StartIsolated, name: str
) -> None:
    it = start_isolated(name, "who")
    pid = output(await it.result("who"))
    assert failure(await it.result(name, "value")) == ("ValueError", "no", False)
    assert failure(await it.result(name, "final")) == ("BAD", "never", True)
    assert failure(await it.result(name, "leave")) == ("SystemExit", "3", False)
    assert failure(await it.result(name, "surrogate")) == ("ValueError", "?", False)
    for value in ("object", "large"):
        code, message, final = failure(await it.result(name, value))
        assert (code, final) == ("OUTPUT_INVALID", True)
        assert message.startswith("output: ")
    code, _, final = failure(await it.result(name, input=payload_pb2.Payload(data=b"{")))
    assert (code, final) == ("INPUT_INVALID", True)
    assert output(await it.result("who")) == pid, "none of these costs a process"


async def test_the_stack_of_what_was_raised_is_logged(start_isolated: StartIsolated) -> None:
    with capture_logs() as lines:
        await start_isolated("fail").result("fail", "value")
    (line,) = [line for line in lines if line["event"] == "attempt failed"]
    assert "in fail\n" in line["exception"]
    assert (line["code"], line["task_key"]) == ("ValueError", "t0")


async def test_what_a_handler_prints_goes_to_the_log(start_isolated: StartIsolated) -> None:
    """Line by line, with its attempt; stdin is empty. None of it meets the frames."""
    it = start_isolated("talk", "who")
    with capture_logs() as lines:
        assert output(await it.result("talk")) == ""
        assert isinstance(output(await it.result("who")), int)
    printed = [(it["text"], it.get("task_key")) for it in lines if it["event"] == "printed"]
    assert printed[0] == ("printed at import", None)
    said = ("by print", "by write", "by a child", "on stderr", "without an end")
    assert sorted(printed[1:]) == sorted((text, "t0") for text in said)


async def test_only_the_beginning_of_much_printing_is_logged(start_isolated: StartIsolated) -> None:
    with capture_logs() as lines:
        assert output(await start_isolated("shout").result("shout")) == "done"
    assert sum(len(line.get("text", "")) for line in lines) < 70_000
    assert [line["event"] for line in lines].count(
        "handler prints too much, the rest is not logged"
    ) == 1


async def test_what_a_handler_logs_comes_out_with_its_fields(start_isolated: StartIsolated) -> None:
    with capture_logs() as lines:
        await start_isolated("log").result("log")
    said = {line["event"]: line for line in lines}
    by_context, by_structlog = said["by context"], said["by structlog"]
    assert (by_context["log_level"], by_context["more"]) == ("warning", 1)
    assert by_structlog["log_level"] == "error"
    for line in (by_context, by_structlog):
        assert (line["tenant"], line["task_key"], line["correlation_id"]) == ("acme", "t0", "c1")
    assert any(line.get("cut") for line in lines), "a line of a megabyte is cut"


# --- What a handler can do to its process ---------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("exit", ("EXIT_4", "ended with exit code 4", False)),
        ("exit well", ("EXIT_0", "ended with exit code 0", False)),
        ("talk", ("EXIT_5", "last words", False)),
        ("kill", ("SIGNAL_KILL", "was ended by signal KILL", False)),
    ],
)
async def test_the_end_of_its_process_fails_its_attempt_only(
    start_isolated: StartIsolated, value: str, expected: tuple[str, str, bool]
) -> None:
    it = start_isolated("fail", "who", "until_told")
    other = it.start("until_told")
    await until_it_speaks(it, other)
    assert failure(await it.result("fail", value)) == expected
    assert isinstance(output(await it.result("who")), int)
    it.runner.stop(other, StopCause.CANCELLED)
    ended = await it.end(other)
    assert ended is not None
    assert output(ended) == "saw it"
    assert it.freed == 3


async def test_a_segmentation_fault_says_where_it_happened(start_isolated: StartIsolated) -> None:
    code, message, _ = failure(await start_isolated("segfault").result("segfault"))
    assert code == "SIGNAL_SEGV"
    assert "in segfault" in message


async def test_a_checkpoint_survives_the_end_of_its_process(start_isolated: StartIsolated) -> None:
    it = start_isolated("save_and_die")
    key = it.start("save_and_die")
    words = it.runner.running[key].words
    await it.end(key)
    assert words.checkpoint == payload_pb2.Payload(data=b'"saved"')


async def test_a_worker_that_is_not_understood_fails_its_attempt_only(
    start_isolated: StartIsolated,
) -> None:
    it = start_isolated("write_everywhere", "who")
    assert failure(await it.result("write_everywhere"))[0] == "WORKER_NOT_UNDERSTOOD"
    assert isinstance(output(await it.result("who")), int)


async def test_a_forked_process_does_not_speak_for_its_parent(
    start_isolated: StartIsolated,
) -> None:
    it = start_isolated("fork", "who")
    with capture_logs() as lines:
        assert output(await it.result("fork")) == "done"
        assert isinstance(output(await it.result("who")), int)
    assert [line["task_key"] for line in lines if "by a fork" in line.get("text", "")] == ["t0"]


# --- Stopping -------------------------------------------------------------------------------------


async def test_a_plain_handler_sees_its_cancellation(start_isolated: StartIsolated) -> None:
    it = start_isolated("until_told", "who")
    for value, end in (("return", "success"), ("raise", "stopped")):
        key = it.start("until_told", value)
        await until_it_speaks(it, key)
        progress = it.runner.running[key].words.progress
        assert progress is not None
        it.runner.stop(key, StopCause.CANCELLED)
        ended = await it.end(key)
        assert ended is not None
        assert ended.WhichOneof("end") == end
        await wait_for_end(int(progress[1]))


async def test_an_async_handler_out_of_time_is_cancelled(start_isolated: StartIsolated) -> None:
    ended = await start_isolated("until_cancelled").result(
        "until_cancelled", attempt_timeout={"seconds": 1}
    )
    assert failure(ended) == ("TIMED_OUT", "the attempt took longer than 1 s", False)


async def test_a_deaf_handler_is_killed_with_all_it_started(start_isolated: StartIsolated) -> None:
    it = start_isolated("deaf", "who", stop_seconds=0.1)
    key = it.start("deaf")
    await until_it_speaks(it, key)
    progress = it.runner.running[key].words.progress
    assert progress is not None
    it.runner.stop(key, StopCause.CANCELLED)
    ended = await it.end(key)
    assert ended is not None
    assert ended.WhichOneof("end") == "stopped"
    for pid in progress[1].split():
        await wait_for_end(int(pid))
    assert isinstance(output(await it.result("who")), int)
    assert it.freed == 2


async def test_a_handler_that_lets_nothing_else_run_harms_nobody(
    start_isolated: StartIsolated,
) -> None:
    """It holds the interpreter's lock for ever: its process is killed, the others go on."""
    it = start_isolated("hog", "who", stop_seconds=0.1)
    key = it.start("hog")
    await until_it_speaks(it, key)
    assert isinstance(output(await it.result("who")), int)
    it.runner.stop(key, StopCause.TIMED_OUT)
    ended = await it.end(key)
    assert ended is not None
    assert failure(ended)[0] == "TIMED_OUT"


async def test_an_attempt_stopped_before_it_has_a_worker_ends_too(
    start_isolated: StartIsolated,
) -> None:
    it = start_isolated("who")
    keys = [it.start("who"), it.start("who")]
    await asyncio.sleep(0)
    it.runner.stop(keys[0], StopCause.CANCELLED)
    first, second = await it.end(keys[0]), await it.end(keys[1])
    assert first is not None
    assert first.WhichOneof("end") == "stopped"
    assert second is not None
    assert isinstance(output(second), int)


async def test_a_stolen_signal_is_taken_back(start_isolated: StartIsolated) -> None:
    it = start_isolated("steal_signal", "until_told", slots=1)
    await it.result("steal_signal")
    key = it.start("until_told")
    await until_it_speaks(it, key)
    it.runner.stop(key, StopCause.CANCELLED)
    ended = await it.end(key)
    assert ended is not None
    assert output(ended) == "saw it"
