"""The configuration of a coordinator: what makes no sense is refused, by its flag."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tenure_server import cli
from tenure_server.config import Config, ConfigError

PLAIN: dict[str, Any] = {
    "store": "sqlite:////var/lib/tenure.db",
    "listen": "127.0.0.1:7233",
    "address": "",
    "lease_seconds": 30.0,
    "accept_seconds": 5.0,
    "seat_seconds": 6.0,
    "tls_cert": None,
    "tls_key": None,
    "tls_client_ca": None,
    "constitution": None,
    "keep_payloads_days": 0.0,
    "keep_runs_days": 0.0,
    "signing_key": None,
    "ready_file": None,
    "bootstrap": None,
    "bootstrap_tenant": "dev",
    "exit_with_stdin": False,
    "log_format": "json",
    "log_level": "info",
}


def test_plain_settings_are_taken() -> None:
    """The address to advertise is the one it listens on, with the port that was found."""
    made = Config.checked(**PLAIN)
    assert made.tls is None
    assert made.advertised(7233) == "127.0.0.1:7233"
    found = Config.checked(**{**PLAIN, "listen": "[::1]:0"})
    assert found.advertised(40123) == "[::1]:40123"
    told = Config.checked(**{**PLAIN, "listen": "0.0.0.0:0", "address": "me.example:7233"})
    assert told.advertised(40123) == "me.example:7233"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"store": "tenure.db"}, "--store must read sqlite:///"),
        ({"store": "mysql://host/db"}, "not 'mysql'"),
        ({"listen": "7233"}, "--listen must read host:port"),
        ({"listen": "host:99999"}, "--listen must read host:port"),
        ({"listen": "::1:7233"}, "stands in brackets"),
        ({"listen": "[zz]:7233"}, "is no IPv6 address"),
        ({"listen": "0.0.0.0:7233"}, "--address is required"),
        ({"listen": ":7233"}, "--address is required"),
        ({"address": "me.example:0"}, "--address must read host:port"),
        ({"lease_seconds": 0.5}, "--lease-seconds must lie between 1 and 3600"),
        ({"lease_seconds": float("nan")}, "--lease-seconds must lie"),
        ({"ready_file": Path("/nowhere/at/all")}, "--ready-file: there is no directory"),
        ({"bootstrap": Path("/nowhere/at/all")}, "--bootstrap: there is no directory"),
        ({"skip_time": Path("/nowhere/at/all")}, "--skip-time: there is no directory"),
        (
            {"skip_time": Path("/tmp/clock"), "listen": "0.0.0.0:0", "address": "me.example:1"},
            "--skip-time is for tests: --listen must be a loopback address",
        ),
        (
            {
                "skip_time": Path("/tmp/clock"),
                "store": "postgresql://host/db",
                "signing_key": Path("/tmp/key"),
            },
            "--skip-time is for tests: --store must be a new SQLite file",
        ),
        (
            {"skip_time": Path("/tmp/clock"), "store": f"sqlite://{__file__}"},
            "--skip-time is for tests: --store must be a new file",
        ),
        ({"bootstrap_tenant": "Dev"}, "--bootstrap-tenant must begin with a lower-case letter"),
        ({"bootstrap_tenant": "dev\n"}, "--bootstrap-tenant must"),
        ({"bootstrap_tenant": "a" * 41}, "--bootstrap-tenant must"),
        ({"tls_cert": Path("c.pem")}, "--tls-cert and --tls-key come together"),
        ({"tls_key": Path("k.pem")}, "--tls-cert and --tls-key come together"),
        ({"tls_client_ca": Path("ca.pem")}, "--tls-client-ca needs"),
        (
            {"tls_cert": Path("/nowhere/c.pem"), "tls_key": Path("/nowhere/k.pem")},
            "--tls-cert: cannot read /nowhere/c.pem: No such file",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], words: str) -> None:
    """In one line that names the flag."""
    with pytest.raises(ConfigError) as raised:
        Config.checked(**{**PLAIN, **changes})
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("listen", "clear"),
    [
        ("127.0.0.1:0", False),
        ("[::1]:0", False),
        ("localhost:0", False),
        ("0.0.0.0:0", True),
        ("10.0.0.7:0", True),
        ("me.example:0", True),
    ],
)
def test_it_knows_when_keys_can_be_read_on_the_network(listen: str, clear: bool) -> None:
    """Without TLS, when others than this machine's own can call."""
    made = Config.checked(**{**PLAIN, "listen": listen, "address": "me.example:1"})
    assert made.in_the_clear is clear


def test_a_key_where_a_certificate_belongs_is_found(tmp_path: Path) -> None:
    """Before gRPC says something that nobody understands."""
    file = tmp_path / "key.pem"
    file.write_text("-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n")
    with pytest.raises(ConfigError, match=r"--tls-cert: .*key\.pem holds no PEM certificate"):
        Config.checked(**{**PLAIN, "tls_cert": file, "tls_key": file})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["serve"], "Missing option '--store'"),
        (["serve", "--store", "x"], "--store must read"),
        (["serve", "--stor", "x"], "--store"),
        (["serve", "--store", "sqlite:////x", "--lease-seconds", "soon"], "not a valid float"),
        (["serve", "--store", "sqlite:////x", "--log-level", "loud"], "'loud' is not one of"),
    ],
)
def test_the_command_refuses_nonsense_with_exit_code_two(flags: list[str], words: str) -> None:
    """Nothing is opened, and the message says what is wrong."""
    found = CliRunner().invoke(cli.main, flags)
    assert found.exit_code == 2
    assert words in found.output
