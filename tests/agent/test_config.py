"""The agent's TOML file: what it says, and how it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.agent.conftest import KEY
from tests.agent.signatory import INSTALLATION, Signatory

from tenure_agent import config, handlers
from tenure_agent.toml import ConfigError

PUBLIC_KEY = Signatory().root_key
COORDINATOR = "[coordinator]\naddresses = ['127.0.0.1:7233']\nkey_file = 'agent.key'\n"


STORE = COORDINATOR + "[payloads]\nstore = 'file:///var/lib/payloads'\n"


def load(folder: Path, text: str) -> config.AgentConfig:
    (folder / "agent.key").write_text(KEY)
    path = folder / "agent.toml"
    path.write_text(text)
    return config.load(path)


def test_a_short_file_gets_the_defaults(tmp_path: Path) -> None:
    loaded = load(tmp_path, COORDINATOR)
    assert loaded.coordinator.addresses == ("127.0.0.1:7233",)
    assert loaded.coordinator.key == KEY
    assert loaded.coordinator.tls is None
    assert (loaded.slots, loaded.drain_seconds, loaded.spool_sync) == (8, 30.0, False)
    assert loaded.spool == tmp_path / "spool"
    assert config.NAME_PATTERN.fullmatch(loaded.name)


def test_every_key_is_read(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("x")
    loaded = load(
        tmp_path,
        COORDINATOR + "tls_ca = 'ca.pem'\n[agent]\nname = 'host-1'\nslots = 3\nspool = 'results'\n"
        "spool_sync = true\ntenants = ['acme']\nlabels = { region = 'eu' }\ndrain_seconds = 2\n"
        "stop_seconds = 0.5\n[[python]]\nkind = 'count'\nfunction = 'm:f'\n"
        "[[command]]\nkind = 'sum'\nargv = ['sha256sum', '-']\nenv = ['PATH']\ncwd = '.'\n",
    )
    assert loaded.coordinator.tls is not None
    assert loaded.coordinator.tls.ca == tmp_path / "ca.pem"
    assert (loaded.name, loaded.slots, loaded.spool) == ("host-1", 3, tmp_path / "results")
    assert (loaded.spool_sync, loaded.tenants, loaded.labels) == (True, ("acme",), {"region": "eu"})
    assert (loaded.drain_seconds, loaded.stop_seconds) == (2.0, 0.5)
    assert loaded.python == (config.PythonConfig(kind="count", function="m:f"),)
    assert loaded.command[0].argv == ("sha256sum", "-")
    assert loaded.command[0].env == ("PATH",)
    assert loaded.command[0].cwd == tmp_path


def test_the_store_of_large_payloads_has_sizes_in_words_or_bytes(tmp_path: Path) -> None:
    assert load(tmp_path, COORDINATOR).payloads is None
    store = "file:///var/lib/payloads"
    usual = config.PayloadsConfig(store=store, inline_max=256 << 10, stored_max=256 << 20)
    assert load(tmp_path, STORE).payloads == usual
    told = load(tmp_path, STORE + "inline_max = 4096\nstored_max = '1 GiB'").payloads
    assert told == config.PayloadsConfig(store=store, inline_max=4096, stored_max=1 << 30)


def test_the_key_may_come_from_the_environment_and_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_TEST_KEY", KEY)
    loaded = load(
        tmp_path, COORDINATOR.replace("key_file = 'agent.key'", "key_env='AGENT_TEST_KEY'")
    )
    assert loaded.coordinator.key == KEY
    assert KEY not in repr(loaded)


def test_the_public_key_stands_in_the_file_or_in_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "tenure.pub").write_text(PUBLIC_KEY + "\n")
    for line in (f"public_key = '{PUBLIC_KEY}'", "public_key_file = 'keys/tenure.pub'"):
        found = load(tmp_path, COORDINATOR + line).coordinator.public_key
        assert found is not None
        assert found.text == PUBLIC_KEY
    assert load(tmp_path, COORDINATOR).coordinator.public_key is None


def test_the_public_key_of_the_command_line_counts_instead_of_the_files(tmp_path: Path) -> None:
    """While another address alone does not make the agent less careful."""
    other = Signatory(seed=1).root_key
    for line in (f"public_key = '{PUBLIC_KEY}'", "public_key_file = 'missing.pub'", ""):
        (tmp_path / "agent.key").write_text(KEY)
        path = tmp_path / "agent.toml"
        path.write_text(COORDINATOR + line)
        found = config.load(path, config.Overrides(public_key=other)).coordinator.public_key
        assert found is not None
        assert found.text == other
    path.write_text(COORDINATOR + f"public_key = '{PUBLIC_KEY}'")
    kept = config.load(path, config.Overrides(addresses=("b:1",))).coordinator.public_key
    assert kept is not None
    assert kept.text == PUBLIC_KEY


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[coordinator", "is not TOML"),
        (
            COORDINATOR + "public_kye = 'x'",
            "[coordinator] public_kye: unknown key; did you mean 'public_key'?",
        ),
        (
            COORDINATOR + "public_key = 'x'",
            "[coordinator] public_key: the key is not a verifier key: <name>+<8 hex digits>",
        ),
        (COORDINATOR + "public_key = ''", "[coordinator] public_key: must not be empty"),
        (
            COORDINATOR + f"public_key = '{PUBLIC_KEY.replace(INSTALLATION, INSTALLATION[::-1])}'",
            "[coordinator] public_key: the key has hash",
        ),
        (
            COORDINATOR + "public_key_file = 'x'",
            "[coordinator] public_key_file: no such file",
        ),
        (
            COORDINATOR + "public_key_file = 'agent.key'",
            "[coordinator] public_key_file: the key is not a verifier key",
        ),
        (
            COORDINATOR + f"public_key = '{PUBLIC_KEY}'\npublic_key_file = 'agent.key'",
            "[coordinator] public_key: only one of public_key and public_key_file",
        ),
        (COORDINATOR + "[payloads]\n", "[payloads] store: is missing"),
        (
            COORDINATOR + "[payloads]\nstore = '/var/x'",
            "[payloads] store: '/var/x' must begin with",
        ),
        (COORDINATOR + "[payloads]\nstore = 'file://x'", "must name a folder from the root on"),
        (STORE + "inline_max = '2 MiB'", "[payloads] inline_max: must be at most 1MiB"),
        (STORE + "inline_max = 'much'", 'inline_max: must be a size such as "256KiB", not the'),
        (STORE + "inline_max = -1", 'inline_max: must be a size such as "256KiB", not the number'),
        (STORE + "stored_max = 1000", "[payloads] stored_max: must not be less than inline_max"),
        (STORE + "stored_max = '2GiB'", "[payloads] stored_max: must be at most 1GiB"),
        (STORE + "inlinemax = 1", "[payloads] inlinemax: unknown key; did you mean 'inline_max'?"),
        ("", "coordinator: is missing"),
        ("[coordinater]\n", "coordinator: is missing; did you mean 'coordinater'?"),
        ("[coordinator]\nkey_file='agent.key'\n", "[coordinator] addresses: is missing"),
        (
            COORDINATOR.replace("addresses", "adresses"),
            "[coordinator] addresses: is missing; did you mean 'adresses'?",
        ),
        (
            COORDINATOR + "tls_cas = 'x'",
            "[coordinator] tls_cas: unknown key; did you mean 'tls_ca'?",
        ),
        (COORDINATOR + "[agent]\nslot = 4", "[agent] slot: unknown key; did you mean 'slots'?"),
        (COORDINATOR + "[agent]\nzzz = 4", "[agent] zzz: unknown key; known: name, slots"),
        (COORDINATOR + "[agnet]\n", "agnet: unknown table or key; did you mean 'agent'?"),
        (COORDINATOR + "[agent]\nslots = 'four'", "slots: must be a whole number, not the string"),
        (COORDINATOR + "[agent]\nslots = true", "slots: must be a whole number, not true"),
        (COORDINATOR + "[agent]\nslots = 0", "slots: must be from 1 to 100000"),
        (COORDINATOR + "[agent]\nname = 'a b'", "[agent] name: 'a b' must be letters"),
        (COORDINATOR + "[agent]\nname = ''", "[agent] name: must not be empty"),
        (COORDINATOR + "[agent]\ndrain_seconds = -1", "drain_seconds: must be from 0 to 86400"),
        (COORDINATOR + "[agent]\ntenants = 'acme'", "tenants: must be a list of strings"),
        (COORDINATOR + "[agent]\ntenants = [1]", "tenants: must be a list of strings, not with"),
        (COORDINATOR + "[agent]\nlabels = { a = 1 }", "labels: 'a' must be a string"),
        (COORDINATOR + "tls_cert = 'agent.key'", "tls_cert: must come together with tls_key"),
        (COORDINATOR + "tls_ca = 'nowhere.pem'", "tls_ca: no such file"),
        (COORDINATOR + "key_env = 'X'", "exactly one of key_file and key_env"),
        (COORDINATOR.replace("agent.key", "none.key"), "key_file: no such file"),
        (COORDINATOR.replace("['127.0.0.1:7233']", "['here']"), "addresses: address 'here'"),
        (COORDINATOR.replace("['127.0.0.1:7233']", "[]"), "must name at least one coordinator"),
        (COORDINATOR + "[python]\nkind='a'", "python: must be a list of tables"),
        (COORDINATOR + "[[python]]\nkind='a'\n", "[python #1] function: is missing"),
        (COORDINATOR + "[[python]]\nkind='a'\nfunction='f'\n", "must read module:function"),
        (COORDINATOR + "[[python]]\nkind='a b'\nfunction='m:f'\n", "[python #1] kind: 'a b'"),
        (COORDINATOR + "[[python]]\nkind='tenure.x'\nfunction='m:f'\n", "are built in"),
        (COORDINATOR + "[[command]]\nkind='a'\nargv=[]\n", "argv: must name a program"),
        (COORDINATOR + "[[command]]\nkind='a'\nargv=['x']\ncwd='no'\n", "cwd: no such folder"),
        (
            COORDINATOR
            + "[[command]]\nkind='a'\nargv=['x']\n[[python]]\nkind='a'\nfunction='m:f'\n",
            "kind 'a': has more than one handler",
        ),
    ],
)
def test_a_file_with_a_fault_is_refused_in_a_sentence(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "agent.toml"))
    assert words in str(caught.value)


def test_the_command_line_is_laid_over_the_file(tmp_path: Path) -> None:
    """Its coordinator is not the file's, so the file's key and TLS settings are not asked for."""
    path = tmp_path / "agent.toml"
    path.write_text(
        "[coordinator]\naddresses = ['far:1']\nkey_file = 'nowhere'\ntls_ca = 'nowhere.pem'\n"
        "[agent]\nname = 'a'\nslots = 2\ndrain_seconds = 3\n"
    )
    (tmp_path / "other.key").write_text(KEY)
    loaded = config.load(
        path,
        config.Overrides(
            addresses=("near:2",),
            key_file=tmp_path / "other.key",
            name="b",
            slots=5,
            spool=tmp_path / "elsewhere",
        ),
    )
    assert loaded.coordinator == config.CoordinatorConfig(addresses=("near:2",), key=KEY)
    assert (loaded.name, loaded.slots, loaded.drain_seconds) == ("b", 5, 3.0)
    assert loaded.spool == tmp_path / "elsewhere"


def test_the_command_line_is_enough_for_the_built_in_kinds(tmp_path: Path) -> None:
    (tmp_path / "agent.key").write_text(KEY)
    given = config.Overrides(addresses=("a:1",), key_file=tmp_path / "agent.key")
    loaded = config.load(None, given)
    assert (loaded.coordinator.key, loaded.python, loaded.command) == (KEY, (), ())
    with pytest.raises(ConfigError, match=r"command line: \[coordinator\] key_file: no such file"):
        config.load(None, config.Overrides(addresses=("a:1",), key_file=tmp_path / "none"))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        config.load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("[[python]]\nkind='a'\nfunction='no_such_module:f'\n", "no module 'no_such_module'"),
        ("[[python]]\nkind='a'\nfunction='faulty:f'\n", "cannot be imported: ZeroDivisionError"),
        ("[[python]]\nkind='a'\nfunction='leaving:f'\n", "cannot be imported: SystemExit: 3"),
        ("[[python]]\nkind='a'\nfunction='good:g'\n", "module 'good' has no 'g'"),
        ("[[python]]\nkind='a'\nfunction='good:number'\n", "is not a function"),
        ("[[python]]\nkind='a'\nfunction='good:one'\n", "must take (context, input)"),
        ("[[command]]\nkind='a'\nargv=['no-such-program']\n", "no program 'no-such-program'"),
        ("[[command]]\nkind='a'\nargv=['./good.py']\n", "is not a program that can be run"),
    ],
)
def test_a_handler_that_cannot_work_is_found_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, words: str
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "faulty.py").write_text("1 / 0\n")
    (tmp_path / "leaving.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "good.py").write_text("number = 1\ndef one(ctx): ...\n")
    with pytest.raises(ConfigError) as caught:
        handlers.build(load(tmp_path, COORDINATOR + entry))
    assert words in str(caught.value)
    assert "kind 'a'" in str(caught.value)
