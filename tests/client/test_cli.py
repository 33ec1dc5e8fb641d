"""The `tenure` command against a fake coordinator: output, JSON, abbreviations, exit codes."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import timestamp_pb2
from tests.client.conftest import (
    AT,
    OTHER_RUN_ID,
    RUN_ID,
    Script,
    Tenure,
    batch,
    event,
    key_of,
    run_in,
)

from tenure.v1 import (
    access_pb2,
    agents_pb2,
    payload_pb2,
    runs_pb2,
    tenants_pb2,
    workflows_pb2,
)

LATER = timestamp_pb2.Timestamp(seconds=1_790_000_004, nanos=500_000_000)
WORKFLOW = "name: word-count\ntasks:\n  - {key: split, kind: split-text}\n"


def task(key: str, state: str, **rest: Any) -> runs_pb2.Task:
    number = runs_pb2.TaskState.Value(f"TASK_STATE_{state}")
    return runs_pb2.Task(run_id=RUN_ID, key=key, kind="count-words", state=number, **rest)


def finished(state: str, **rest: Any) -> runs_pb2.GetRunResponse:
    counts = runs_pb2.TaskCounts(total=3, succeeded=1, failed=1, upstream_failed=1)
    return runs_pb2.GetRunResponse(
        run=run_in(state, tasks=counts, create_time=AT, end_time=LATER, workflow_version=2, **rest)
    )


def test_a_list_is_a_table_for_people(far_script: Script, tenure: Tenure) -> None:
    counts = runs_pb2.TaskCounts(total=104, succeeded=57)
    runs = [
        run_in("RUNNING", tasks=counts, create_time=AT, workflow_version=3),
        runs_pb2.Run(run_id=OTHER_RUN_ID, workflow="[red]x\x1b[31m", create_time=AT),
    ]
    far_script.on("ListRuns", runs_pb2.ListRunsResponse(runs=runs))
    done = tenure("run", "list", "--workflow", "word-count", "--state", "running")
    assert done.code == 0
    header, _, first, second = (line.split() for line in done.out.splitlines())
    assert header == ["RUN", "WORKFLOW", "VERSION", "STATE", "DONE", "TASKS", "CREATED", "TOOK"]
    assert first[:6] == [RUN_ID, "word-count", "3", "RUNNING", "57", "104"]
    assert second[1] == "[red]x\\x1b[31m"
    [request] = far_script.requests("ListRuns")
    assert request.filter.workflow == "word-count"
    assert list(request.filter.states) == [runs_pb2.RUN_STATE_RUNNING]


def test_a_list_is_one_document_for_programs(far_script: Script, tenure: Tenure) -> None:
    far_script.on("ListRuns", runs_pb2.ListRunsResponse(runs=[run_in("RUNNING", create_time=AT)]))
    [found] = tenure("run", "list", "--json").json()
    assert found["run_id"] == RUN_ID
    assert found["state"] == "RUNNING"
    assert found["create_time"] == "2026-09-21T14:13:20.250000Z"
    assert found["end_time"] is None
    assert found["input"] is None


def test_an_empty_list_says_so(far_script: Script, tenure: Tenure) -> None:
    far_script.on("ListAgents", agents_pb2.ListAgentsResponse())
    assert tenure("agents", "list").out == "no agents\n"
    assert tenure("--json", "agents", "list").json() == []


def test_agents_are_shown_with_slots_and_kinds(far_script: Script, tenure: Tenure) -> None:
    agent = agents_pb2.Agent(
        name="host-1",
        kinds=["a", "b"],
        slots=8,
        leases=3,
        labels={"region": "eu"},
        state=agents_pb2.AGENT_STATE_CONNECTED,
        seen_time=AT,
    )
    far_script.on("ListAgents", agents_pb2.ListAgentsResponse(agents=[agent]))
    row = tenure("agents", "list").out.splitlines()[-1].split()
    assert row[:7] == ["host-1", "CONNECTED", "3", "8", "a,", "b", "region=eu"]


def test_a_workflow_file_is_registered(far_script: Script, tenure: Tenure, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    registered = workflows_pb2.Workflow(
        name="word-count", version=4, digest="sha256:ab", task_count=1
    )
    far_script.on(
        "RegisterWorkflow",
        workflows_pb2.RegisterWorkflowResponse(workflow=registered, created=True),
    )
    done = tenure("workflow", "register", str(tmp_path / "w.yaml"))
    assert done.code == 0
    assert dict(line.split(maxsplit=1) for line in done.out.splitlines()) == {
        "workflow": "word-count",
        "version": "4",
        "digest": "sha256:ab",
        "tasks": "1",
        "dependencies": "0",
        "new": "yes",
    }
    assert far_script.requests("RegisterWorkflow")[0].definition.tasks[0].key == "split"
    answer = tenure("workflow", "register", str(tmp_path / "w.yaml"), "--json").json()
    assert (answer["workflow"]["version"], answer["created"]) == (4, True)


def test_a_file_is_validated_here_or_there(
    far_script: Script, tenure: Tenure, tmp_path: Path
) -> None:
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    far_script.on(
        "ValidateWorkflow",
        workflows_pb2.ValidateWorkflowResponse(digest="sha256:cd", task_count=1, depth=1),
    )
    assert tenure("workflow", "validate", str(tmp_path / "w.yaml"), "--json").json() == {
        "digest": "sha256:cd",
        "task_count": 1,
        "dependency_count": 0,
        "depth": 1,
        "objections": [],
        "dimensions": [],
    }
    done = tenure("workflow", "validate", "--offline", str(tmp_path / "w.yaml"))
    assert done.code == 0
    assert "as far as the file can tell" in done.out
    assert len(far_script.requests("ValidateWorkflow")) == 1


def test_workflows_are_listed_and_shown(far_script: Script, tenure: Tenure) -> None:
    definition = workflows_pb2.WorkflowDefinition(name="word-count")
    definition.tasks.add(key="split", kind="split-text").input.data = b'{"path":"corpus.txt"}'
    definition.tasks.add(key="count", kind="count-words", depends_on=["split"], priority=5)
    found = workflows_pb2.Workflow(
        name="word-count", version=2, digest="sha256:" + "a" * 64, definition=definition
    )
    far_script.on("ListWorkflows", workflows_pb2.ListWorkflowsResponse(workflows=[found]))
    far_script.on("GetWorkflow", workflows_pb2.GetWorkflowResponse(workflow=found))
    row = tenure("workflow", "list").out.splitlines()[-1].split()
    assert row[:2] == ["word-count", "2"]
    shown = tenure("workflow", "show", "word-count", "--version", "2").out.splitlines()
    assert shown[-1].split() == ["count", "count-words", "split", "1", "5"]
    tasks = tenure("workflow", "show", "word-count", "--json").json()["definition"]["tasks"]
    assert tasks[0]["input"] == {"path": "corpus.txt"}
    assert tasks[1]["input"] is None
    assert [each.version for each in far_script.requests("GetWorkflow")] == [2, 0]


def test_a_run_is_started_with_input_scale_and_labels(
    far_script: Script, tenure: Tenure, tmp_path: Path
) -> None:
    (tmp_path / "in.json").write_text('{"b": 9007199254740993, "a": null}')
    answer = runs_pb2.StartRunResponse(run_id=RUN_ID, workflow_version=3, workflow_digest="d")
    far_script.on("StartRun", answer)
    options = ["--version", "3", "--priority", "-5", "--label", "why=test=1", "--request-id", "r1"]
    given = f"@{tmp_path / 'in.json'}"
    done = tenure(
        "run", "start", "word-count", "--input", given, "--time-scale", "0.5", *options, "--json"
    )
    assert done.json() == {
        "run_id": RUN_ID,
        "workflow_version": 3,
        "workflow_digest": "d",
        "warnings": [],
    }
    [request] = far_script.requests("StartRun")
    assert request.input.data == b'{"a":null,"b":9007199254740993,"time_scale":0.5}'
    assert dict(request.labels) == {"why": "test=1"}
    assert (request.workflow_version, request.priority, request.request_id) == (3, -5, "r1")


def test_waiting_shows_the_events_and_ends_with_the_run(far_script: Script, tenure: Tenure) -> None:
    far_script.on("StartRun", runs_pb2.StartRunResponse(run_id=RUN_ID))
    far_script.on("GetRun", finished("FAILED", reason="task 'count' failed"))
    far_script.on(
        "WatchRun",
        [
            batch(
                event(1, "RUN_STARTED", time=AT),
                event(2, "TASK_LEASED", "count", time=AT, attempt=1, agent="host-1"),
                event(
                    3, "TASK_FAILED", "count", time=LATER, attempt=1, code="Oops", message="a\nb"
                ),
                event(4, "RUN_FAILED", time=LATER),
            )
        ],
    )
    done = tenure("run", "start", "word-count", "--wait")
    assert done.code == 1
    assert "FAILED" in done.out
    assert "task 'count' failed" in done.out
    assert "1 succeeded, 1 failed, 1 upstream failed of 3" in done.out
    lines = done.err.splitlines()
    assert lines[0] == f"run {RUN_ID} is started"
    assert lines[2].endswith("task leased           count  attempt 1  on host-1")
    assert lines[3].endswith("task failed           count  attempt 1  Oops: a\\nb")
    waited = tenure("run", "start", "word-count", "--wait", "--json")
    assert waited.code == 1
    assert waited.json()["state"] == "FAILED"


def test_watching_writes_a_line_for_each_event(far_script: Script, tenure: Tenure) -> None:
    far_script.on("GetRun", finished("SUCCEEDED"))
    far_script.on("WatchRun", [batch(event(1, "RUN_STARTED")), batch(event(2, "RUN_SUCCEEDED"))])
    done = tenure("run", "watch", RUN_ID)
    assert done.code == 0
    assert done.err == ""
    assert "run started" in done.out.splitlines()[0]
    assert done.out.splitlines()[-1].startswith("SUCCEEDED in 4.2 s")
    lines = tenure("run", "watch", RUN_ID, "--json").out.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["RUN_STARTED", "RUN_SUCCEEDED"]


@pytest.mark.parametrize(("state", "code"), [("SUCCEEDED", 0), ("FAILED", 1), ("CANCELLED", 1)])
def test_the_end_of_a_watched_run_is_the_exit_code(
    far_script: Script, tenure: Tenure, state: str, code: int
) -> None:
    far_script.on("GetRun", finished(state))
    far_script.on("WatchRun", [batch(event(1, f"RUN_{state}"))])
    assert tenure("run", "watch", RUN_ID).code == code


def test_a_run_is_shown_with_what_failed(far_script: Script, tenure: Tenure) -> None:
    content = payload_pb2.Payload(data=b'{"n":1}')
    far_script.on("GetRun", finished("FAILED", input=content))
    failure = runs_pb2.Failure(code="ValueError", message="bad line\nand more")
    failed = task("count", "FAILED", attempt=3, failure=failure)
    far_script.on("ListTasks", runs_pb2.ListTasksResponse(tasks=[failed]))
    done = tenure("run", "show", RUN_ID)
    assert done.code == 0
    assert "word-count version 2" in done.out
    assert '{"n":1}' in done.out
    assert "ValueError: bad line" in done.out
    assert tenure("run", "show", RUN_ID, "--json").json()["input"] == {"n": 1}


def test_tasks_are_listed_and_one_is_shown_with_its_output(
    far_script: Script, tenure: Tenure
) -> None:
    done_task = task("split", "SUCCEEDED", attempt=1, agent="host-1", lease_time=AT, end_time=LATER)
    far_script.on("ListTasks", runs_pb2.ListTasksResponse(tasks=[done_task]))
    row = tenure("run", "tasks", RUN_ID, "--state", "SUCCEEDED").out.splitlines()[-1]
    assert row.split()[:7] == ["split", "count-words", "SUCCEEDED", "1", "host-1", "4.2", "s"]
    done_task.output.data = b'["a",1]'
    far_script.on("GetTask", runs_pb2.GetTaskResponse(task=done_task))
    assert '["a",1]' in tenure("run", "task", RUN_ID, "split").out
    assert tenure("run", "task", RUN_ID, "split", "--json").json()["output"] == ["a", 1]


def test_logs_are_lines_and_can_be_of_one_task(far_script: Script, tenure: Tenure) -> None:
    events = [event(1, "RUN_STARTED", time=AT), event(2, "TASK_LEASED", "a", time=AT, agent="h")]
    far_script.on("ListRunEvents", runs_pb2.ListRunEventsResponse(events=events))
    assert len(tenure("logs", RUN_ID).out.splitlines()) == 2
    [line] = tenure("run", "logs", RUN_ID, "--task", "a").out.splitlines()
    assert line.endswith("task leased           a  on h")
    [entry] = tenure("logs", RUN_ID, "--task", "a", "--json").out.splitlines()
    assert json.loads(entry)["task_key"] == "a"


def test_a_run_is_cancelled_with_a_reason(far_script: Script, tenure: Tenure) -> None:
    far_script.on("CancelRun", runs_pb2.CancelRunResponse(state=runs_pb2.RUN_STATE_CANCELLING))
    done = tenure("run", "cancel", RUN_ID, "--reason", "too slow", "--json")
    assert done.json() == {"run_id": RUN_ID, "state": "CANCELLING"}
    assert far_script.requests("CancelRun")[0].reason == "too slow"


@pytest.mark.parametrize("text", [RUN_ID.upper(), "0199aa", "0199aaaa-11", "55556666"])
def test_a_run_may_be_abbreviated(far_script: Script, tenure: Tenure, text: str) -> None:
    runs = [run_in("RUNNING"), runs_pb2.Run(run_id=OTHER_RUN_ID)]
    far_script.on("ListRuns", runs_pb2.ListRunsResponse(runs=runs))
    far_script.on("GetRun", finished("SUCCEEDED"))
    assert tenure("run", "show", text, "--json").json()["run_id"] == RUN_ID
    assert far_script.requests("GetRun")[0].run_id == RUN_ID


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("0199a", 2, "must be a run's id, or at least 6 characters"),
        ("word-count", 2, "must be a run's id, or at least 6 characters"),
        ("-8222-8333-", 2, "No such option"),
        ("0199aa", 2, "'0199aa' means 2 runs, among them"),
        ("abcdef", 5, "none of the newest 1000 runs begins or ends with 'abcdef'"),
    ],
)
def test_an_abbreviation_must_mean_one_run(
    far_script: Script, tenure: Tenure, text: str, code: int, message: str
) -> None:
    twin = runs_pb2.Run(run_id=RUN_ID[:-1] + "7")
    far_script.on("ListRuns", runs_pb2.ListRunsResponse(runs=[run_in("RUNNING"), twin]))
    done = tenure("run", "show", text)
    assert done.code == code
    assert message in done.err


def test_tenants_are_made_changed_and_listed(far_script: Script, tenure: Tenure) -> None:
    tenant = tenants_pb2.Tenant(tenant_id="acme", display_name="Acme", max_leases=10, weight=2)
    far_script.on("CreateTenant", tenants_pb2.CreateTenantResponse(tenant=tenant))
    far_script.on("UpdateTenant", tenants_pb2.UpdateTenantResponse(tenant=tenant))
    far_script.on("ListTenants", tenants_pb2.ListTenantsResponse(tenants=[tenant]))
    far_script.on("GetTenant", tenants_pb2.GetTenantResponse(tenant=tenant))
    made = tenure("tenants", "create", "acme", "--max-leases", "10", "--weight", "2", "--json")
    assert made.json()["max_leases"] == 10
    assert far_script.requests("CreateTenant")[0].weight == 2
    assert "max leases  10" in tenure("tenants", "update", "acme", "--max-leases", "10").out
    assert tenure("tenants", "list").out.splitlines()[-1].split()[:4] == ["acme", "Acme", "10", "2"]
    assert "Acme" in tenure("tenants", "show", "acme").out
    assert tenure("tenants", "update", "acme").code == 2


def test_a_key_is_made_for_the_callers_tenant_and_shown_once(
    far_script: Script, tenure: Tenure, tmp_path: Path
) -> None:
    far_script.on("GetCaller", tenants_pb2.GetCallerResponse(api_key=key_of()))
    far_script.on(
        "CreateApiKey", tenants_pb2.CreateApiKeyResponse(api_key=key_of(), secret="tnr_new")
    )
    done = tenure("keys", "create", "ci", "--role", "submitter", "--expires", "30d")
    assert done.code == 0
    assert "tnr_new" in done.out
    [request] = far_script.requests("CreateApiKey")
    assert list(request.tenant_ids) == ["dev"]
    assert list(request.roles) == [access_pb2.ROLE_SUBMITTER]
    assert request.HasField("expire_time")
    path = tmp_path / "new.key"
    done = tenure("keys", "create", "ci", "--role", "agent", "--for", "acme", "--write", str(path))
    assert "tnr_new" not in done.out
    assert path.read_text() == "tnr_new\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(far_script.requests("CreateApiKey")[1].tenant_ids) == ["acme"]
    again = tenure("keys", "create", "ci", "--role", "agent", "--write", str(path))
    assert (again.code, "exists already" in again.err) == (2, True)


def test_a_key_whose_secret_was_lost_is_a_failure(far_script: Script, tenure: Tenure) -> None:
    far_script.on("GetCaller", tenants_pb2.GetCallerResponse(api_key=key_of()))
    far_script.on("CreateApiKey", tenants_pb2.CreateApiKeyResponse(api_key=key_of()))
    done = tenure("keys", "create", "ci", "--role", "agent")
    assert done.code == 1
    assert f"revoke {RUN_ID}" in done.err


def test_keys_are_listed_revoked_and_recognized(far_script: Script, tenure: Tenure) -> None:
    revoked = key_of(revoke_time=AT)
    far_script.on("GetCaller", tenants_pb2.GetCallerResponse(api_key=key_of()))
    far_script.on("ListApiKeys", tenants_pb2.ListApiKeysResponse(api_keys=[key_of(), revoked]))
    far_script.on("RevokeApiKey", tenants_pb2.RevokeApiKeyResponse(api_key=revoked))
    out = tenure("keys", "list").out
    assert "submitter, tenant-admin" in out
    assert "revoked 2026" in out
    assert tenure("keys", "revoke", RUN_ID, "--json").json()["revoke_time"]
    assert tenure("whoami", "--json").json()["roles"] == ["SUBMITTER", "TENANT_ADMIN"]
