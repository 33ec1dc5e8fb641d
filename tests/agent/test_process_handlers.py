"""Functions in worker processes: what they do to their process costs their attempt only."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.agent.conftest import AgentProcess, WriteConfig, wait_for_end
from tests.agent.fake_coordinator import FakeCoordinator, key_of, new_lease
from tests.agent.trial import StartTrial, Trial, failure, output

from tenure.v1 import payload_pb2
from tenure_agent import config, handlers, workers
from tenure_agent.holding import Key
from tenure_agent.isolated import Isolated
from tenure_agent.runner import StopCause

HANDLERS = """
import asyncio, collections, ctypes, itertools, os, signal, subprocess, sys, time
import structlog, tenure_agent

print("printed at import")
kept = []

def who(ctx, value):
    return os.getpid()

def report(ctx, value):
    ctx.progress(0.5, "half way")
    ctx.save_checkpoint({"done": 1})
    names = ("run_id", "task_key", "attempt", "tenant_id", "workflow", "correlation_id")
    facts = {name: getattr(ctx, name) for name in names}
    return [value, ctx.run_input, ctx.upstream, ctx.checkpoint, ctx.cancelled, facts]

async def report_async(ctx, value):
    await asyncio.sleep(0)
    return report(ctx, value)

def fail(ctx, value):
    match value:
        case "value": raise ValueError("no")
        case "final": raise tenure_agent.NonRetryable("BAD", "never")
        case "leave": raise SystemExit(3)
        case "exit": os._exit(4)
        case "exit well": os._exit(0)
        case "talk": print("last words"); os._exit(5)
        case "kill": os.kill(os.getpid(), signal.SIGKILL)
        case "object": return object()
        case "large": return "x" * (2**20 + 1)
        case "surrogate": raise ValueError("\\ud800")

async def fail_async(ctx, value):
    return fail(ctx, value)

def segfault(ctx, value):
    ctypes.string_at(0)

def save_and_die(ctx, value):
    ctx.save_checkpoint("saved")
    os._exit(1)

def until_told(ctx, value):
    ctx.progress(0.1, str(os.getpid()))
    while not ctx.cancelled:
        time.sleep(0.005)
    if value == "raise":
        ctx.raise_if_cancelled()
    return "saw it"

async def until_cancelled(ctx, value):
    ctx.progress(0.1, str(os.getpid()))
    await asyncio.Event().wait()

def deaf(ctx, value):
    child = subprocess.Popen(["sleep", "60"])
    ctx.progress(0.1, f"{os.getpid()} {child.pid}")
    while True:
        time.sleep(60)

def hog(ctx, value):
    ctx.save_checkpoint(os.getpid())
    collections.deque(itertools.repeat(1), maxlen=0)

def talk(ctx, value):
    print("by print")
    os.write(1, b"by write\\n")
    subprocess.run(["echo", "by a child"])
    print("on stderr", file=sys.stderr)
    sys.stdout.write("without an end")
    return sys.stdin.read()

def shout(ctx, value):
    for _ in range(200):
        print("x" * 10_000)
    return "done"

def log(ctx, value):
    ctx.logger.warning("by context", more=1)
    structlog.get_logger("lib").error("by structlog")
    ctx.logger.warning("y" * 1_000_000)

def keep(ctx, value):
    kept.append(ctx)

def speak_for_another(ctx, value):
    kept[0].save_checkpoint("stale")
    kept[0].progress(0.9)
    ctx.progress(0.2)

def write_everywhere(ctx, value):
    for fd in range(3, 20):
        try:
            os.write(fd, b"\\xff" * 64)
        except OSError:
            pass
    time.sleep(60)

def fork(ctx, value):
    pid = os.fork()
    if pid == 0:
        ctx.logger.warning("by a fork")
        os._exit(0)
    os.waitpid(pid, 0)
    return "done"

def steal_signal(ctx, value):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return os.getpid()
"""

Spawn = Callable[..., Awaitable[AgentProcess]]
StartIsolated = Callable[..., Trial]


@pytest.fixture
def start(trial: StartTrial, tmp_path: Path) -> StartIsolated:
    """A trial of some of the functions above, as kinds of the same names.

    There is much time to stop, since those that do stop do so as soon as they are asked.
    """
    (tmp_path / "isolated_test_handlers.py").write_text(HANDLERS)

    def make(*names: str, slots: int = 4, stop_seconds: float = 10.0) -> Trial:
        found = {
            name: Isolated(function=f"isolated_test_handlers:{name}", folder=tmp_path)
            for name in names
        }
        return trial(slots=slots, stop_seconds=stop_seconds, **found)

    return make


async def until_it_speaks(it: Trial, key: Key) -> None:
    """Waits for the first word of an attempt."""
    async with asyncio.timeout(20):
        while all(spoken != key for spoken, _ in it.words):
            it.spoke.clear()
            await it.spoke.wait()


# --- What a handler can do ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["report", "report_async"])
async def test_the_whole_context_works(start: StartIsolated, name: str) -> None:
    it = start(name)
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
    start: StartIsolated, name: str
) -> None:
    it = start(name, "who")
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


async def test_the_stack_of_what_was_raised_is_logged(start: StartIsolated) -> None:
    with capture_logs() as lines:
        await start("fail").result("fail", "value")
    (line,) = [line for line in lines if line["event"] == "attempt failed"]
    assert "in fail\n" in line["exception"]
    assert (line["code"], line["task_key"]) == ("ValueError", "t0")


async def test_what_a_handler_prints_goes_to_the_log(start: StartIsolated) -> None:
    """Line by line, with its attempt; stdin is empty. None of it meets the frames."""
    it = start("talk", "who")
    with capture_logs() as lines:
        assert output(await it.result("talk")) == ""
        assert isinstance(output(await it.result("who")), int)
    printed = [(it["text"], it.get("task_key")) for it in lines if it["event"] == "printed"]
    assert printed[0] == ("printed at import", None)
    said = ("by print", "by write", "by a child", "on stderr", "without an end")
    assert sorted(printed[1:]) == sorted((text, "t0") for text in said)


async def test_only_the_beginning_of_much_printing_is_logged(start: StartIsolated) -> None:
    with capture_logs() as lines:
        assert output(await start("shout").result("shout")) == "done"
    assert sum(len(line.get("text", "")) for line in lines) < 70_000
    assert [line["event"] for line in lines].count(
        "handler prints too much, the rest is not logged"
    ) == 1


async def test_what_a_handler_logs_comes_out_with_its_fields(start: StartIsolated) -> None:
    with capture_logs() as lines:
        await start("log").result("log")
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
    start: StartIsolated, value: str, expected: tuple[str, str, bool]
) -> None:
    it = start("fail", "who", "until_told")
    other = it.start("until_told")
    await until_it_speaks(it, other)
    assert failure(await it.result("fail", value)) == expected
    assert isinstance(output(await it.result("who")), int)
    it.runner.stop(other, StopCause.CANCELLED)
    ended = await it.end(other)
    assert ended is not None
    assert output(ended) == "saw it"
    assert it.freed == 3


async def test_a_segmentation_fault_says_where_it_happened(start: StartIsolated) -> None:
    code, message, _ = failure(await start("segfault").result("segfault"))
    assert code == "SIGNAL_SEGV"
    assert "in segfault" in message


async def test_a_checkpoint_survives_the_end_of_its_process(start: StartIsolated) -> None:
    it = start("save_and_die")
    key = it.start("save_and_die")
    words = it.runner.running[key].words
    await it.end(key)
    assert words.checkpoint == payload_pb2.Payload(data=b'"saved"')


async def test_a_worker_that_is_not_understood_fails_its_attempt_only(
    start: StartIsolated,
) -> None:
    it = start("write_everywhere", "who")
    assert failure(await it.result("write_everywhere"))[0] == "WORKER_NOT_UNDERSTOOD"
    assert isinstance(output(await it.result("who")), int)


async def test_a_forked_process_does_not_speak_for_its_parent(start: StartIsolated) -> None:
    it = start("fork", "who")
    with capture_logs() as lines:
        assert output(await it.result("fork")) == "done"
        assert isinstance(output(await it.result("who")), int)
    assert [line["task_key"] for line in lines if "by a fork" in line.get("text", "")] == ["t0"]


# --- Stopping -------------------------------------------------------------------------------------


async def test_a_plain_handler_sees_its_cancellation(start: StartIsolated) -> None:
    it = start("until_told", "who")
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


async def test_an_async_handler_out_of_time_is_cancelled(start: StartIsolated) -> None:
    ended = await start("until_cancelled").result("until_cancelled", attempt_timeout={"seconds": 1})
    assert failure(ended) == ("TIMED_OUT", "the attempt took longer than 1 s", False)


async def test_a_deaf_handler_is_killed_with_all_it_started(start: StartIsolated) -> None:
    it = start("deaf", "who", stop_seconds=0.1)
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


async def test_a_handler_that_lets_nothing_else_run_harms_nobody(start: StartIsolated) -> None:
    """It holds the interpreter's lock for ever: its process is killed, the others go on."""
    it = start("hog", "who", stop_seconds=0.1)
    key = it.start("hog")
    await until_it_speaks(it, key)
    assert isinstance(output(await it.result("who")), int)
    it.runner.stop(key, StopCause.TIMED_OUT)
    ended = await it.end(key)
    assert ended is not None
    assert failure(ended)[0] == "TIMED_OUT"


async def test_an_attempt_stopped_before_it_has_a_worker_ends_too(start: StartIsolated) -> None:
    it = start("who")
    keys = [it.start("who"), it.start("who")]
    await asyncio.sleep(0)
    it.runner.stop(keys[0], StopCause.CANCELLED)
    first, second = await it.end(keys[0]), await it.end(keys[1])
    assert first is not None
    assert first.WhichOneof("end") == "stopped"
    assert second is not None
    assert isinstance(output(second), int)


async def test_a_stolen_signal_is_taken_back(start: StartIsolated) -> None:
    it = start("steal_signal", "until_told", slots=1)
    await it.result("steal_signal")
    key = it.start("until_told")
    await until_it_speaks(it, key)
    it.runner.stop(key, StopCause.CANCELLED)
    ended = await it.end(key)
    assert ended is not None
    assert output(ended) == "saw it"


# --- The pool -------------------------------------------------------------------------------------


async def test_a_worker_is_used_again_and_replaced_in_time(
    start: StartIsolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "ATTEMPTS_MAX", 2)
    it = start("who")
    pids = [output(await it.result("who")) for _ in range(4)]
    assert (pids[0], pids[2]) == (pids[1], pids[3])
    assert pids[1] != pids[2]
    await wait_for_end(pids[0])


async def test_there_are_never_more_workers_than_slots(start: StartIsolated) -> None:
    it = start("who", slots=2)
    ends = await asyncio.gather(*(it.end(it.start("who")) for _ in range(8)))
    pids = {output(end) for end in ends if end is not None}
    assert 1 <= len(pids) <= 2


async def test_a_worker_without_work_leaves(
    start: StartIsolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "IDLE_SECONDS", 0.01)
    await wait_for_end(output(await start("who").result("who")))


async def test_no_attempt_pays_for_a_worker_that_died_idle(start: StartIsolated) -> None:
    it = start("who")
    pid = output(await it.result("who"))
    os.kill(pid, signal.SIGKILL)
    assert output(await it.result("who")) != pid


async def test_an_attempt_that_is_over_is_not_heard(start: StartIsolated) -> None:
    """Its context still exists in the worker, but the worker has another attempt now."""
    it = start("keep", "speak_for_another", slots=1)
    await it.result("keep")
    key = it.start("speak_for_another")
    words = it.runner.running[key].words
    await it.end(key)
    assert words.checkpoint is None
    assert words.progress == (0.2, "")


async def test_a_worker_that_cannot_start_fails_its_attempt(
    start: StartIsolated, tmp_path: Path
) -> None:
    it = start("who")
    (tmp_path / "isolated_test_handlers.py").write_text("import os; os._exit(9)")
    assert failure(await it.result("who"))[0] == "WORKER_NOT_STARTED"
    (tmp_path / "isolated_test_handlers.py").write_text("")
    code, message, _ = failure(await it.result("who"))
    assert code == "FunctionError"
    assert message.endswith("module 'isolated_test_handlers' has no 'who'")


# --- The configuration and the agent --------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "no module 'isolated_start' on "),
        ("x = 1", "module 'isolated_start' has no 'f'"),
        ("def f(): pass", "must take (context, input): "),
        ("1 / 0", "the module cannot be imported: ZeroDivisionError: division by zero"),
        ("import os; os._exit(7)", "importing the module ends its process: exit code 7"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "importing the module ends its process: signal SEGV",
        ),
    ],
)
def test_what_is_wrong_with_a_function_is_found_at_the_start(
    write_config: WriteConfig, source: str | None, reason: str
) -> None:
    kinds = (
        "[[python]]\nkind='good'\nfunction='agent_test_handlers:double'\nprocess=true\n"
        "[[python]]\nkind='it'\nfunction='isolated_start:f'\nprocess=true\n"
    )
    path = write_config("127.0.0.1:1", kinds=kinds)
    if source is not None:
        (path.parent / "isolated_start.py").write_text(source)
    with pytest.raises(config.ConfigError) as refused:
        handlers.build(config.load(path))
    assert str(refused.value).startswith(f"{path}: kind 'it': isolated_start:f: {reason}")


def test_a_function_runs_in_a_process_only_if_the_file_says_so(write_config: WriteConfig) -> None:
    entry = "[[python]]\nkind='{0}'\nfunction='agent_test_handlers:double'\n{1}\n"
    kinds = entry.format("by-default", "") + entry.format("isolated", "process = true")
    path = write_config("127.0.0.1:1", kinds=kinds)
    table = handlers.build(config.load(path))
    assert type(table["by-default"]) is handlers.Coroutine
    assert table["isolated"] == Isolated(function="agent_test_handlers:double", folder=path.parent)
    path = write_config("127.0.0.1:1", kinds=entry.format("it", "process = 1"))
    with pytest.raises(config.ConfigError, match="process: must be true or false"):
        config.load(path)


def isolated_kinds(*names: str) -> str:
    return "".join(
        f"[[python]]\nkind='{name}'\nfunction='isolated_test_handlers:{name}'\nprocess=true\n"
        for name in names
    )


async def test_an_agent_goes_on_after_the_crashes_of_its_handlers(
    coordinator: FakeCoordinator, spawn_agent: Spawn, write_config: WriteConfig
) -> None:
    path = write_config(
        coordinator.address, kinds=isolated_kinds("fail", "segfault", "who", "log", "talk")
    )
    (path.parent / "isolated_test_handlers.py").write_text(HANDLERS)
    leases: list[Any] = []
    for kind, value in (("fail", "exit"), ("segfault", None), ("fail", "kill"), ("log", None)):
        leases.append(new_lease(f"{kind}-{value}", kind))
        leases[-1].input.data = json.dumps(value).encode()
    leases += [new_lease(f"who-{number}", "who") for number in range(20)]
    leases.append(new_lease("talk", "talk"))
    coordinator.offer(*leases)
    agent = await spawn_agent(path, "--log-format", "json")
    ends = [await coordinator.result(lease) for lease in leases]
    codes = [end.failure.code for end in ends]
    assert codes == ["EXIT_4", "SIGNAL_SEGV", "SIGNAL_KILL", *([""] * 22)]
    assert len(coordinator.hellos) == 1
    assert {len(results) for results in coordinator.results.values()} == {1}
    agent.process.send_signal(signal.SIGTERM)
    assert await agent.exit_code() == 0
    assert not (path.parent / "spool" / "groups").exists()
    lines = [json.loads(line) for line in (await agent.log()).splitlines()]
    (said,) = [line for line in lines if line["event"] == "by context"]
    assert (said["task_key"], said["logger"], said["level"]) == ("log-None", "handler", "warning")
    assert [it["task_key"] for it in lines if it.get("text") == "by print"] == ["talk"]


@pytest.mark.parametrize("kind", ["until_told", "hog"])
async def test_workers_end_with_a_killed_agent(
    coordinator: FakeCoordinator, spawn_agent: Spawn, write_config: WriteConfig, kind: str
) -> None:
    """At once, or if nothing in them can run, when the next agent starts."""
    path = write_config(coordinator.address, kinds=isolated_kinds("until_told", "hog"))
    (path.parent / "isolated_test_handlers.py").write_text(HANDLERS)
    lease = new_lease("it", kind)
    coordinator.offer(lease)
    agent = await spawn_agent(path)
    await coordinator.until(
        lambda: any(it.message or it.checkpoint.data for it in coordinator.renewals)
    )
    said = next(it for it in coordinator.renewals if it.message or it.checkpoint.data)
    assert key_of(said.lease) == key_of(lease)
    pid = int(said.message or said.checkpoint.data)
    await agent.kill()
    if kind == "hog":
        await spawn_agent(path)
    await wait_for_end(pid)
