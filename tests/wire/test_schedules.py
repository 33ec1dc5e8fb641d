"""`tenure schedule` with a real coordinator and agent: what fires runs, and is told."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.wire.conftest import Install
from tests.wire.installation import Installation, until

from tenure.v1 import runs_pb2, schedules_pb2
from tenure_client import schedule_file, workflow_file
from tenure_client.cli import app
from tenure_client.client import Client
from tenure_client.errors import TenureError


class Done(NamedTuple):
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


Tenure = Callable[..., Done]

FILE = """
name: nightly
workflow: plain
input: {source: sales}
labels: {team: red}
cron: "30 2 * * *"
time_zone: Europe/Vienna
jitter: 5m
overlap: buffer-one
catchup_window: 6h
pause_on_failure: true
notes: the figures of yesterday
"""
PLAIN = "name: plain\ntasks:\n  - {key: a, kind: nobody}\n"


@pytest.fixture
async def tenant(house: Installation, request: pytest.FixtureRequest) -> str:
    """A tenant of this test's own."""
    name = f"timed-{zlib.crc32(request.node.name.encode()):08x}"
    await house.add_tenant(name)
    return name


@pytest.fixture
async def command(
    house: Installation,
    tenant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Tenure:
    """Executes the command in this process, as one of the tenant's keys."""
    secrets = {role: await house.secret(role, tenant) for role in ("admin", "viewer", "submitter")}
    for word in [word for word in os.environ if word.startswith("TENURE_")]:
        monkeypatch.delenv(word)
    monkeypatch.setenv("TENURE_ADDRESS", house.coordinator.address)
    monkeypatch.setenv("TENURE_TENANT", tenant)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nightly.yaml").write_text(FILE)
    (tmp_path / "plain.yaml").write_text(PLAIN)

    def execute(*arguments: str, role: str = "submitter") -> Done:
        monkeypatch.setenv("TENURE_KEY", secrets[role])
        code = app.invoke(arguments)
        return Done(code, *capsys.readouterr())

    return execute


@pytest.fixture
def tenure(command: Tenure) -> Tenure:
    """The same, once a workflow is registered."""
    assert command("workflow", "register", "plain.yaml").returncode == 0
    return command


def document(done: Done, code: int = 0) -> Any:
    """What a command wrote for programs."""
    assert (done.returncode, done.stderr) == (code, "")
    return json.loads(done.stdout)


def test_a_schedule_from_a_file_is_shown_changed_and_deleted(tenure: Tenure) -> None:
    made = document(tenure("schedule", "create", "--file", "nightly.yaml", "--json"))
    assert made["state"] == "ACTIVE"
    assert made["spec"]["overlap"] == "BUFFER_ONE"
    assert made["spec"]["start"]["input"] is None  # only `show` has it
    shown = tenure("schedule", "show", "nightly", role="viewer")
    for words in ("nightly", "ACTIVE", "30 2 * * * (Europe/Vienna)", "buffer one", "UPCOMING"):
        assert words in shown.stdout
    whole = document(tenure("schedule", "show", "nightly", "--fires", "3", "--json"))
    assert whole["schedule"]["spec"]["start"]["input"] == {"source": "sales"}
    assert len(whole["upcoming"]) == 3
    assert "nightly" in tenure("schedule", "list", role="viewer").stdout
    changed = document(tenure("schedule", "update", "nightly", "--priority", "5", "--json"))
    assert changed["spec"]["start"]["priority"] == 5
    assert changed["spec"]["times"]["crons"][0]["expression"] == "30 2 * * *"
    whole = document(tenure("schedule", "show", "nightly", "--json"))
    assert whole["schedule"]["spec"]["start"]["input"] == {"source": "sales"}
    changed = document(
        tenure("schedule", "update", "nightly", "--every", "6h", "--input", "null", "--json")
    )
    assert changed["spec"]["times"]["crons"] == []
    assert changed["spec"]["times"]["intervals"][0]["every"] == 21600
    again = document(tenure("schedule", "update", "--file", "nightly.yaml", "--json"))
    assert again["spec"]["start"]["priority"] == 0
    assert tenure("schedule", "delete", "nightly", "--reason", "over").returncode == 0
    assert tenure("schedule", "show", "nightly").returncode == 5


def test_what_cannot_be_is_refused_by_its_field(tenure: Tenure, tmp_path: Path) -> None:
    cases = [
        (("--cron", "61 * * * *"), "times.crons[0].expression: is no cron expression"),
        (("--cron", "0 0 * * *", "--time-zone", "Mars"), "times.crons[0].time_zone"),
        (("--every", "1ms"), "times.intervals[0].every"),
        (("--at", "2020-01-01"), "times: has no time in the future"),
        ((), "times: names no time"),
        (("--every", "1h", "--label", "tenure.schedule=y"), "start.labels['tenure.schedule']"),
        (("--every", "soon"), "--every[0]: must be a span"),
        (("--every", "1h", "--catchup-window", "1s"), "catchup_window"),
    ]
    for arguments, words in cases:
        done = tenure("schedule", "create", "x", "--workflow", "plain", *arguments)
        assert done.returncode == 2, done
        assert words in done.stderr
    unknown = tenure("schedule", "create", "x", "--workflow", "none", "--every", "1h")
    assert unknown.returncode == 5
    (tmp_path / "bad.yaml").write_text("name: x\nworkflow: plain\nevery: 1h\noverlap: never\n")
    done = tenure("schedule", "create", "--file", "bad.yaml")
    assert done.returncode == 2
    assert "bad.yaml:4: overlap: must be one of skip, buffer-one" in done.stderr
    assert document(tenure("schedule", "list", "--json")) == []
    assert tenure("schedule", "create", "x", "--every", "1h", role="viewer").returncode == 4


def test_operators_verbs(tenure: Tenure) -> None:
    document(tenure("schedule", "create", "--file", "nightly.yaml", "--paused", "wait", "--json"))
    shown = document(tenure("schedule", "show", "nightly", "--json"))["schedule"]
    assert (shown["state"], shown["pause"]["reason"]) == ("PAUSED", "wait")
    fire = document(tenure("schedule", "trigger", "nightly", "--json"))
    assert fire["outcome"] == "STARTED"
    run = document(tenure("run", "show", fire["run_id"], "--json"))
    assert run["labels"]["tenure.schedule"] == "nightly"
    assert run["labels"]["tenure.schedule_cause"] == "trigger"
    assert document(tenure("schedule", "resume", "nightly", "--json"))["state"] == "ACTIVE"
    waits = document(tenure("schedule", "trigger", "nightly", "--json"))
    assert waits["outcome"] == "WAITS"
    skipped = document(tenure("schedule", "trigger", "nightly", "--overlap", "skip", "--json"))
    assert (skipped["outcome"], skipped["message"]) == ("SKIPPED", "a run of the schedule is open")
    filled = document(tenure("schedule", "backfill", "nightly", "--from", "3d", "--json"))
    assert filled["count"] == 3
    assert len(filled["schedule"]["backfills"]) == 1
    paused = document(tenure("schedule", "pause", "nightly", "--reason", "enough", "--json"))
    assert paused["pause"]["reason"] == "enough"
    entries = document(tenure("evidence", "list", "--kind", "schedule.pause", "--json"))
    assert entries[0]["subject"]["reason"] == "enough"


async def test_each_time_has_one_run_though_the_coordinator_is_killed(
    install: Install, any_store: str
) -> None:
    """Before and behind the kill; those that came while nobody was there are made up for."""
    house = install(store=any_store)
    secret = await house.secret("submitter")
    async with Client(house.coordinator.address, secret) as client:
        await client.register_workflow(workflow_file.read_text(PLAIN, name="plain", json=False))
        # As late as can be: a time that is over when the schedule is made has no run.
        start = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
        value = {
            "name": "often",
            "workflow": "plain",
            "every": "1s",
            "start": start.isoformat(),
            "end": (start + timedelta(seconds=6)).isoformat(),
            "overlap": "allow-all",
        }
        made = schedule_file.request_of(value)
        await client.schedules.create(made.name, made.spec)

        async def started() -> int:
            fires = [fire async for fire in client.schedules.fires("often")]
            return sum(fire.outcome == schedules_pb2.FIRE_OUTCOME_STARTED for fire in fires)

        while await started() < 2:
            pass
        house.coordinator.kill()
        house.coordinator.start()
        await until(lambda: datetime.now(UTC) > start + timedelta(seconds=6), "the time passes")
        runs: list[runs_pb2.Run] = []
        while len(runs) < 6:
            runs = [run async for run in client.list_runs(workflow="plain")]
        told = sorted(run.labels["tenure.scheduled_at"] for run in runs)
        expected = [start + timedelta(seconds=second) for second in range(6)]
        assert told == [one.isoformat().replace("+00:00", "Z") for one in expected]
        schedule = await client.schedules.get("often")
        assert schedule.state == schedules_pb2.SCHEDULE_STATE_FINISHED
        with pytest.raises(TenureError, match="a schedule often already"):
            await client.schedules.create(made.name, made.spec)
