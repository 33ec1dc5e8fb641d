"""The examples do what they say, with real processes, as a reader of the README would run them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tenure_client import workflow_file
from tenure_server.rpc import convert

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TENURE = [sys.executable, "-m", "tenure_client"]
SECONDS_MAX = 60


def environment(**more: str) -> dict[str, str]:
    """The environment without settings of another installation; our own programs come first."""
    kept = {word: text for word, text in os.environ.items() if not word.startswith("TENURE_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, "PATH": path, **more}


def dev_run(file: Path, folder: Path) -> dict[str, Any]:
    """Runs a workflow file with files in a folder, and gives the report."""
    done = subprocess.run(
        [
            *TENURE,
            "dev",
            "run",
            str(file),
            "--json",
            "--input",
            json.dumps({"folder": str(folder)}),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def sums(folder: Path) -> dict[str, str]:
    """The content of SHA256SUMS, checked against the files that it names."""
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    found = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    for name, digest in found.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
    return found


def test_log_report_loses_no_line_and_gives_the_same_report_every_time(tmp_path: Path) -> None:
    """33 tasks succeed, one of them at its second attempt; a second run writes the same files."""
    reports = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        run = dev_run(EXAMPLES / "log-report" / "workflow.yaml", folder)
        assert (run["state"], run["tasks"], run["succeeded"]) == ("SUCCEEDED", 33, 33)
        assert (run["attempts"], run["order_violations"]) == (34, 0)
        reports.append(sums(folder))
    assert reports[0] == reports[1]
    assert len(reports[0]) == 11
    page = (tmp_path / "first" / "report.html").read_text()
    assert "48,000 requests" in page
    assert "owned by Ada" in page


def test_mandelbrot_goes_on_from_a_checkpoint_and_draws_the_picture(tmp_path: Path) -> None:
    """Ten tasks succeed with eleven attempts, and the picture has its size."""
    run = dev_run(EXAMPLES / "mandelbrot" / "workflow.yaml", tmp_path)
    assert (run["state"], run["tasks"], run["attempts"]) == ("SUCCEEDED", 10, 11)
    picture = (tmp_path / f"mandelbrot-{run['run_id']}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">II", picture[16:24]) == (480, 320)


def test_a_journey_that_cannot_be_completed_is_undone(tmp_path: Path) -> None:
    """The last booking is given back first, each once, then the customer is told; and all of it
    can be proven: the bundle verifies, and the database agrees with its log.
    """
    done = run_saga(tmp_path)
    run = json.loads(done.stdout)
    assert done.returncode == 1, done.stderr
    assert (run["state"], run["reason"]) == ("FAILED", "task pay failed: CardRefused")
    assert (run["tasks"], run["succeeded"], run["failed"], run["attempts"]) == (9, 8, 1, 10)
    assert (run["order_violations"], run["evidence"]) == (0, "verified")
    mark = run["run_id"][-6:]
    assert (tmp_path / "acts.txt").read_text().splitlines() == [
        f"booked train-{mark} for 120",
        f"booked hotel-{mark} for 310",
        "sent a letter",
        f"booked museum-{mark} for 24",
        f"gave back museum-{mark}",
        f"gave back hotel-{mark}",
        f"gave back train-{mark}",
        "told ada@example.com that it failed (pay: 454 is more than 400)",
    ]
    call([*TENURE, "evidence", "verify", str(tmp_path / "bundle.json")], environment())
    database = tmp_path / "data" / "tenure.db"
    call([*TENURE, "evidence", "audit", "--database", str(database)], environment())
    store = [sys.executable, "-m", "tenure_server", "audit", "--store", f"sqlite://{database}"]
    key = tmp_path / "data" / "tenure.db.signing-key.json"
    call([*store, "--signing-key", str(key)], environment())


def run_saga(folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs the journey, whose run fails."""
    return subprocess.run(
        [
            *(*TENURE, "dev", "run", str(EXAMPLES / "saga" / "workflow.yaml"), "--json"),
            *("--input", json.dumps({"folder": str(folder)})),
            *("--data", str(folder / "data"), "--bundle", str(folder / "bundle.json")),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )


def test_the_builder_gives_the_digest_of_the_file() -> None:
    """build.py declares in a loop what workflow.yaml spells out: one definition, one digest."""
    built = load(EXAMPLES / "mandelbrot" / "build.py").definition()
    read = workflow_file.read(EXAMPLES / "mandelbrot" / "workflow.yaml")
    assert read == built
    assert convert.definition(read).digest() == convert.definition(built).digest()


def test_a_small_agent_and_a_shell_script_do_the_polyglot_work(tmp_path: Path) -> None:
    """Stubs alone, or `buf curl` alone, are enough to be an agent."""
    if (missing := [it for it in ("bash", "buf", "python3") if not which(it)]) != []:
        pytest.skip(f"not on PATH: {', '.join(missing)}")
    with dev(tmp_path) as (address, credentials):
        client = environment(TENURE_ADDRESS=address, TENURE_CREDENTIALS=str(credentials))
        key = json.loads(credentials.read_text())["agent"]
        agent = environment(TENURE_ADDRESS=address, TENURE_KEY=key)
        polyglot = EXAMPLES / "polyglot"
        call([*TENURE, "workflow", "register", str(polyglot / "workflow.yaml")], client)
        started = json.loads(call([*TENURE, "run", "start", "polyglot", "--json"], client))
        assert "VERDICT_APPLIED" in call(["bash", str(polyglot / "agent.sh")], agent)
        said = call([sys.executable, str(polyglot / "small_agent.py"), "2"], agent)
        assert said.count("VERDICT_APPLIED") == 2
        shown = json.loads(
            call([*TENURE, "run", "show", started["run_id"], "--json"], client),
        )
    assert shown["state"] == "SUCCEEDED"


def test_the_first_workflow_of_the_readme_runs_as_printed(tmp_path: Path) -> None:
    """The files in the README, written down as they stand there, are a run that succeeds."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    files = re.findall(r"^`([\w.-]+)`:\n\n```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert {name for name, _ in files} >= {"workflow.yaml", "agent.toml"}
    for name, content in files:
        (tmp_path / name).write_text(content, encoding="utf-8")
    run = dev_run(tmp_path / "workflow.yaml", tmp_path)
    assert run["state"] == "SUCCEEDED"


def load(path: Path) -> ModuleType:
    """Imports a module by its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def which(program: str) -> str | None:
    """Finds a program as the examples will."""
    return shutil.which(program, path=environment()["PATH"])


def call(arguments: list[str], variables: dict[str, str]) -> str:
    """Executes a program that must succeed, and gives what it wrote."""
    done = subprocess.run(
        arguments, env=variables, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def dev(folder: Path) -> Iterator[tuple[str, Path]]:
    """Keeps `tenure dev` going, and gives its address and its credentials file."""
    process = subprocess.Popen(
        [*TENURE, "dev", "--data", str(folder / "data"), "--address", "127.0.0.1:0", "--json"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        facts = json.loads(process.stdout.readline())
        yield facts["address"], Path(facts["credentials"])
        process.terminate()
        assert process.wait(SECONDS_MAX) == 0
    finally:
        process.kill()
        process.communicate()
