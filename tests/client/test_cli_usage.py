"""The `tenure` command against a fake coordinator: who calls, what is refused, exit codes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import grpc
import pytest
from tests.client.conftest import (
    KEY,
    RUN_ID,
    Done,
    Refusal,
    Script,
    Tenure,
    key_of,
)

from tenure.v1 import (
    agents_pb2,
    tenants_pb2,
)
from tenure_client.cli import app


def test_credentials_give_the_operators_key_for_tenants_and_the_admins_for_the_rest(
    far_script: Script, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "credentials.json"
    keys = {"tenant": "dev", "operator": "tnr_o", "admin": "tnr_a", "agent": "tnr_g"}
    path.write_text(json.dumps(keys))
    far_script.on("ListTenants", tenants_pb2.ListTenantsResponse())
    far_script.on("ListAgents", agents_pb2.ListAgentsResponse())
    far_script.on("GetCaller", tenants_pb2.GetCallerResponse(api_key=key_of()))
    line = ["--address", far_script.address, "--credentials", str(path)]
    assert app.invoke([*line, "tenants", "list"]) == 0
    assert app.invoke([*line, "agents", "list"]) == 0
    assert app.invoke(["whoami", *line, "--as", "agent"]) == 0
    capsys.readouterr()
    [tenants] = far_script.metadata("ListTenants")
    [agents] = far_script.metadata("ListAgents")
    [caller] = far_script.metadata("GetCaller")
    assert (tenants["authorization"], "x-tenure-tenant" in tenants) == ("Bearer tnr_o", False)
    assert (agents["authorization"], agents["x-tenure-tenant"]) == ("Bearer tnr_a", "dev")
    assert caller["authorization"] == "Bearer tnr_g"


def test_the_environment_says_what_the_command_line_does_not(
    far_script: Script,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "key").write_text("tnr_file\n")
    monkeypatch.setenv("TENURE_ADDRESS", far_script.address)
    monkeypatch.setenv("TENURE_KEY", "tnr_environment")
    monkeypatch.setenv("TENURE_TENANT", "acme")
    far_script.on("ListAgents", agents_pb2.ListAgentsResponse())
    assert app.invoke(["agents", "list"]) == 0
    assert app.invoke(["agents", "list", "--key-file", str(tmp_path / "key")]) == 0
    assert app.invoke(["--tenant", "dev", "agents", "list"]) == 0
    capsys.readouterr()
    first, second, third = far_script.metadata("ListAgents")
    assert (first["authorization"], first["x-tenure-tenant"]) == ("Bearer tnr_environment", "acme")
    assert second["authorization"] == "Bearer tnr_file"
    assert third["x-tenure-tenant"] == "dev"


@pytest.mark.parametrize(
    ("refusal", "code", "line"),
    [
        (
            Refusal(
                grpc.StatusCode.INVALID_ARGUMENT,
                "the request is invalid",
                "FIELD_INVALID",
                fields=(("page_size", "must not be negative"),),
            ),
            2,
            "error: the request is invalid; page_size: must not be negative",
        ),
        (Refusal(grpc.StatusCode.UNAVAILABLE, "stopping", "STOPPING"), 3, "error: stopping"),
        (
            Refusal(grpc.StatusCode.UNAUTHENTICATED, "the key is unknown", "CREDENTIAL_INVALID"),
            4,
            "error: the key is unknown",
        ),
        (Refusal(grpc.StatusCode.PERMISSION_DENIED, "role missing"), 4, "error: role missing"),
        (Refusal(grpc.StatusCode.NOT_FOUND, "no such run"), 5, "error: no such run"),
        (Refusal(grpc.StatusCode.FAILED_PRECONDITION, "has ended"), 1, "error: has ended"),
        (Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many"), 1, "error: too many"),
    ],
)
def test_a_refusal_is_one_line_and_an_exit_code(
    far_script: Script, tenure: Tenure, refusal: Refusal, code: int, line: str
) -> None:
    far_script.on("GetRun", refusal)
    assert tenure("run", "show", RUN_ID) == Done(code, "", line + "\n")


def test_a_coordinator_that_is_not_there_is_exit_code_3(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = ["--address", "127.0.0.1:1", "--key", KEY, "--wait-seconds", "0", "whoami"]
    assert app.invoke(line) == 3
    err = capsys.readouterr().err
    assert err.startswith("error: no coordinator could be reached: ")
    assert len(err.splitlines()) == 1


def test_a_bad_file_is_exit_code_2_and_one_line(tenure: Tenure, tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("name: a\ntask: []\n")
    done = tenure("workflow", "register", str(path))
    assert done.code == 2
    assert done.err == (
        f"error: {path}:2: task: is not a key that is known here; did you mean 'tasks'?\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "start", "a", "--input", "{bad"], "--input: is not JSON"),
        (["run", "start", "a", "--input", "@none.json"], "no such file"),
        (["run", "start", "a", "--input", "[1]", "--time-scale", "1"], "JSON object"),
        (["run", "start", "a", "--input", "1e999"], "cannot be written as JSON"),
        (["run", "start", "a", "--time-scale", "nan"], "--time-scale"),
        (["run", "start", "a", "--label", "x"], "must read WORD=TEXT"),
        (["run", "list", "--state", "GONE"], "'GONE' is not one of"),
        (["keys", "create", "a", "--role", "god"], "'god' is not one of"),
        (["keys", "create", "a", "--role", "agent", "--expires", "soon"], "--expires: must be"),
        (["nonsense"], "No such command 'nonsense'"),
        (["run", "show"], "error: Missing argument 'RUN' (see `tenure run show --help`)"),
        (["whoami", "--key-file", "x"], "not --key and --key-file"),
    ],
)
def test_bad_usage_is_exit_code_2(tenure: Tenure, arguments: list[str], message: str) -> None:
    done = tenure(*arguments)
    assert done.code == 2
    assert message in done.err
    assert done.err.startswith("error: ")
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no key: give --key-file, --credentials or --key"),
        (["--key-file", "none"], "none: no such file or directory"),
        (["--credentials", "none"], "none: no such file or directory"),
        (["--key", "a\nb"], "authorization: only printable ASCII"),
        (["--key", "k", "--address", "nowhere"], "must read host:port"),
        (["--key", "k", "--tls-cert", "c.pem"], "must be given together"),
        (["--key", "k", "--tls-ca", "none.pem"], "cannot read none.pem"),
    ],
)
def test_a_caller_that_cannot_be_is_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert app.invoke([*arguments, "whoami"]) == 2
    assert message in capsys.readouterr().err


def test_credentials_that_are_no_credentials_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "c.json"
    for content, message in (("{", "is not JSON"), ("{}", "has no key 'admin'"), ("[]", "no key")):
        path.write_text(content)
        assert app.invoke(["--credentials", str(path), "whoami"]) == 2
        assert message in capsys.readouterr().err


def test_an_unexpected_error_is_one_line_unless_debugging(
    far_script: Script, tenure: Tenure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(_: object) -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr("tenure_client.cli.session.of", burst)
    done = tenure("whoami")
    assert done.code == 1
    assert (
        done.err == "error: unexpected RuntimeError: surprise (--debug shows where it happened)\n"
    )
    with pytest.raises(RuntimeError, match="surprise"):
        tenure("whoami", "--debug")


def test_ctrl_c_is_exit_code_130(
    far_script: Script, tenure: Tenure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tenure_client.cli.session.of", interrupt)
    assert tenure("whoami") == Done(130, "", "\ninterrupted\n")


@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_command_has_help_with_the_root_s_line(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.invoke([name, "--help"]) == 0
    assert f"tenure {name}" in capsys.readouterr().out
    assert app.invoke(["--help"]) == 0
    assert app.COMMANDS[name][2] in capsys.readouterr().out


def test_a_tenant_is_erased_once_that_was_confirmed(
    far_script: Script, tenure: Tenure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    answer = tenants_pb2.DeleteTenantResponse(log_size=7, log_root=bytes(32))
    far_script.on("DeleteTenant", answer)
    assert tenure("tenants", "delete", "acme").code == 130, "nobody said yes"
    assert far_script.requests("DeleteTenant") == []
    made = tenure("tenants", "delete", "acme", "--yes", "--json").json()
    assert made == {"tenant_id": "acme", "log_size": 7, "log_root": "00" * 32}
    [request] = far_script.requests("DeleteTenant")
    assert (request.tenant_id, bool(request.request_id)) == ("acme", True)
