"""`tenure dev` and `tenure dev run`: the main job in one command, with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil  # type: ignore[import-untyped]
import pytest

from tenure_client import workflow_file
from tenure_client.cli import embedded, report
from tenure_evidence.signing import SigningKey

TRACES = Path(__file__).parents[3] / "shared" / "wfinstances"
COMMAND = [sys.executable, "-m", "tenure_client"]

HANDLERS = """
from pathlib import Path

def split(ctx, input):
    return Path(input["path"]).read_text().split()

async def count(ctx, input):
    if input == "stumble":
        raise ValueError("stumbled")
    return len(ctx.upstream["split"])
"""

AGENT = """
[agent]
slots = 4

[[python]]
kind = "split"
function = "handlers:split"

[[python]]
kind = "count"
function = "handlers:count"

[[command]]
kind = "checksum"
argv = ["sh", "-c", "cat >/dev/null; printf '\\"%s\\"' \\"$PWD\\""]
cwd = "."
"""

WORKFLOW = """
name: count-words
tasks:
  - {{key: split, kind: split, input: {{path: {corpus}}}}}
  - {{key: count, kind: count, depends_on: [split], input: {mood}}}
  - {{key: where, kind: checksum, depends_on: [split]}}
  - {{key: echo, kind: tenure.echo, depends_on: [count, where], input: [1, 2]}}
"""


def tenure(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Executes the command in a folder; temporary files go there too."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env={**_environment(folder), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def _environment(folder: Path) -> dict[str, str]:
    kept = {word: text for word, text in os.environ.items() if not word.startswith("TENURE_")}
    (folder / "tmp").mkdir(exist_ok=True)
    return {**kept, "TMPDIR": str(folder / "tmp")}


@contextmanager
def started(*arguments: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Starts the command; kills it at the end if it still runs.

    Ctrl-C reaches it: a shell without job control has what it starts in the background ignore that,
    and so the tests too when they run there.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env=_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_with(stream: IO[str] | None, word: str) -> str:
    """Reads lines until one has a word in it."""
    assert stream is not None
    for line in stream:
        if word in line:
            return line
    raise AssertionError(f"no line has {word!r}")


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(process.pid).children()
    return found


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A folder with a workflow, handlers and the agent's file."""
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "handlers.py").write_text(HANDLERS)
    (folder / "agent.toml").write_text(AGENT)
    (folder / "corpus.txt").write_text("to be or not to be")
    text = WORKFLOW.format(corpus=folder / "corpus.txt", mood="fine")
    (folder / "words.yaml").write_text(text)
    text = WORKFLOW.format(corpus=folder / "corpus.txt", mood="stumble")
    (folder / "stumble.yaml").write_text(text)
    return folder


def trace(folder: Path, *, seconds: float) -> Path:
    tasks = [
        {"id": f"task {n}", "name": "t", "parents": [f"task {m}" for m in {n // 2, n // 3} - {n}]}
        for n in range(12)
    ]
    times = [{"id": task["id"], "runtimeInSeconds": seconds} for task in tasks]
    content = {
        "name": "A made up trace",
        "workflow": {"specification": {"tasks": tasks}, "execution": {"tasks": times}},
    }
    path = folder / "trace.json"
    path.write_text(json.dumps(content))
    return path


def test_a_trace_runs_in_its_recorded_order_and_time_and_its_digest_is_the_same_at_any_scale(
    tmp_path: Path,
) -> None:
    path = trace(tmp_path, seconds=5)
    run = ("dev", "run", str(path), "--data", str(tmp_path / "data"), "--json")
    done = tenure(*run, "--time-scale", "0.02", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    made = json.loads(done.stdout)
    assert (made["state"], made["tasks"], made["succeeded"]) == ("SUCCEEDED", 12, 12)
    assert (made["failed"], made["order_violations"], made["attempts"]) == (0, 0, 12)
    assert made["workflow"] == "A-made-up-trace"
    assert made["critical_path_seconds"] == pytest.approx(0.5)
    assert made["makespan_seconds"] >= made["critical_path_seconds"]
    assert made["data"] == str(tmp_path / "data")
    other = json.loads(tenure(*run, "--time-scale", "0", folder=tmp_path).stdout)
    assert made["digest"] == other["digest"]
    assert (made["version"], other["version"]) == (1, 1)
    assert made["run_id"] != other["run_id"]


def test_the_agent_executes_only_what_its_coordinator_signed(tmp_path: Path) -> None:
    """Nobody has to configure that; and it takes no key of another coordinator from its file."""
    path = trace(tmp_path, seconds=0)
    stranger = SigningKey("tenure.v1/elsewhere", bytes(32)).verifier.text
    (tmp_path / "agent.toml").write_text(f"[coordinator]\npublic_key = '{stranger}'\n")
    done = tenure("dev", "run", str(path), "--data", "data", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "data" / "agent.log").read_text().splitlines()
    events = [json.loads(line)["event"] for line in log if line.startswith("{")]
    assert "leases are checked against their mandates" in events
    assert "lease is refused" not in events


def test_handlers_beside_the_file_are_used_from_anywhere(job: Path, tmp_path: Path) -> None:
    # A module in the current directory must not stand in for one of ours.
    (tmp_path / "click.py").write_text("raise RuntimeError('the wrong click')")
    shown = tenure("dev", "run", "job/words.yaml", folder=tmp_path, PYTHONSAFEPATH="1")
    assert shown.returncode == 0, shown.stderr
    assert "SUCCEEDED" in shown.stdout
    assert "4 succeeded of 4" in shown.stdout
    assert "count-words: 4 tasks, 4 dependencies, 4 slots" in shown.stderr
    assert shown.stderr.count("task succeeded") == 4


def test_a_failed_task_is_an_exit_code_and_a_row(job: Path) -> None:
    done = tenure("dev", "run", "stumble.yaml", "--json", folder=job)
    made = json.loads(done.stdout)
    assert done.returncode == 1
    assert (made["state"], made["succeeded"], made["data"]) == ("FAILED", 2, None)
    assert list((job / "tmp").iterdir()) == []
    assert (made["failed"], made["upstream_failed"], made["order_violations"]) == (1, 1, 0)
    shown = tenure("dev", "run", "stumble.yaml", folder=job)
    assert "ValueError: stumbled" in shown.stdout
    assert shown.returncode == 1


def test_a_kind_without_a_handler_is_refused_before_the_run(job: Path) -> None:
    (job / "agent.toml").write_text(AGENT.replace('kind = "count"', 'kind = "cuont"'))
    done = tenure("dev", "run", "words.yaml", folder=job)
    assert done.returncode == 2
    assert done.stderr == "error: words.yaml: no handler for 'count'; did you mean 'cuont'?\n"
    (job / "agent.toml").unlink()
    done = tenure("dev", "run", "words.yaml", folder=job)
    assert done.returncode == 2
    assert "no handler for 'checksum', 'count', 'split'; give --agent-config" in done.stderr


def test_an_agent_that_cannot_start_says_why(job: Path) -> None:
    (job / "agent.toml").write_text(AGENT.replace("slots", "slotz"))
    done = tenure("dev", "run", "words.yaml", folder=job)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the agent did not start: ")
    assert "slotz" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_bad_file_starts_nothing(job: Path) -> None:
    (job / "bad.yaml").write_text("name: a\ntasks: [{key: x}]")
    done = tenure("dev", "run", "bad.yaml", "--data", "data", folder=job)
    assert done.returncode == 2
    assert done.stderr.startswith("error: bad.yaml:2: tasks[0].kind: is missing")
    assert not (job / "data").exists()


def test_ctrl_c_ends_everything_and_leaves_nothing(tmp_path: Path) -> None:
    path = trace(tmp_path, seconds=60)
    with started("dev", "run", str(path), folder=tmp_path) as process:
        line_with(process.stderr, "task leased")
        children = children_of(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert len(children) == 2
    assert not any(child.is_running() for child in children)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_killed_parent_takes_its_children_along(tmp_path: Path) -> None:
    path = trace(tmp_path, seconds=1)
    with started("dev", "run", str(path), "--data", "data", folder=tmp_path) as process:
        line_with(process.stderr, "task leased")
        children = children_of(process)
        process.kill()
        process.wait(10)
        _, alive = psutil.wait_procs(children, timeout=60)
    assert len(children) == 2
    assert alive == []


def test_a_child_that_dies_ends_the_command_with_its_log(tmp_path: Path) -> None:
    path = trace(tmp_path, seconds=60)
    with started("dev", "run", str(path), folder=tmp_path) as process:
        line_with(process.stderr, "task leased")
        coordinator = next(child for child in children_of(process) if "serve" in child.cmdline())
        coordinator.kill()
        assert "the coordinator ended with exit code -9" in line_with(process.stderr, "error")
        assert process.wait(60) == 1


def test_dev_keeps_a_coordinator_with_a_ready_key(job: Path) -> None:
    with started("dev", "--address", "127.0.0.1:0", "--json", folder=job) as process:
        assert process.stdout is not None
        facts: dict[str, Any] = json.loads(process.stdout.readline())
        place = {
            "TENURE_ADDRESS": facts["address"],
            "TENURE_CREDENTIALS": facts["credentials"],
        }
        registered = tenure("workflow", "register", "words.yaml", folder=job, **place)
        assert registered.returncode == 0, registered.stderr
        ran = tenure("run", "start", "count-words", "--wait", "--json", folder=job, **place)
        run = json.loads(ran.stdout)
        assert (ran.returncode, run["state"]) == (0, "SUCCEEDED")
        shown = tenure("run", "task", run["run_id"], "count", "--json", folder=job, **place)
        assert json.loads(shown.stdout)["output"] == 6
        [agent] = json.loads(tenure("agents", "list", "--json", folder=job, **place).stdout)
        assert {"split", "count", "checksum"} < set(agent["kinds"])
        second = tenure("dev", "--address", "127.0.0.1:0", folder=job)
        assert second.returncode == 1
        assert second.stderr.startswith("error: the coordinator did not start: ")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert (job / ".tenure" / "agent.log").stat().st_size > 0


async def test_all_seven_traces_run_in_order(tmp_path: Path) -> None:
    paths = sorted(TRACES.glob("*.json"))
    if not paths:
        pytest.skip("no traces lie in ../shared/wfinstances")
    async with embedded.Embedded(tmp_path / "data") as house:
        await house.start_coordinator("127.0.0.1:0")
        await house.start_agent(config=None, slots=256)
        async with house.client() as client:
            for path in paths:
                definition = workflow_file.read(path)
                await client.register_workflow(definition)
                started = await client.start_run(definition.name, input={"time_scale": 0.0001})
                run = await client.wait_run(started.run_id)
                tasks = [task async for task in client.list_tasks(run.run_id)]
                events = [event async for event in client.list_run_events(run.run_id)]
                made = report.judge(definition, run, tasks, events, time_scale=0.0001, data=None)
                facts = made.as_json()
                assert (facts["state"], facts["succeeded"]) == ("SUCCEEDED", len(definition.tasks))
                assert made.order_violations == ()
                assert facts["attempts"] == len(definition.tasks)
