"""Evidence for people, with real processes: a run's bundle, and the log over the service."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.wire.conftest import Ask
from tests.wire.installation import TENANT, Installation
from tests.wire.nest import INPUT_TEXT, OUTPUT_TEXT, Kept
from tests.wire.test_examples import ROOT, TENURE, environment

from tenure_evidence.packing import unpacked

NODE = shutil.which("node")
VERIFIER = ROOT / "examples" / "verify-bundle" / "verify.mjs"
#: The options with which a tenant's admin calls.
Calling = Callable[[str], tuple[str, ...]]


def node_says(path: Path) -> tuple[int, Any]:
    done = subprocess.run(
        [str(NODE), str(VERIFIER), str(path)], capture_output=True, text=True, check=False
    )
    return done.returncode, json.loads(done.stdout)["first_bad_entry"]


# A run's bundle


def test_dev_run_writes_a_bundle_that_needs_nothing_else(kept: Kept, tmp_path: Path) -> None:
    """One file, moved elsewhere, verified by a process with no setting of ours and no server."""
    assert kept.report["bundle"] == str(kept.bundle)
    assert (kept.report["evidence"], kept.report["attempts"]) == ("verified", 3)
    moved = tmp_path / "elsewhere.json"
    shutil.copy(kept.bundle, moved)
    command = [sys.executable, "-m", "tenure_client", "evidence", "verify", str(moved)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"good: run {kept.report['run_id']} of tenant dev, run.succeeded")
    if NODE:
        assert node_says(moved) == (0, None)


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_changed_byte_is_found_and_the_entry_named(
    place: float, kept: Kept, ask: Ask, tmp_path: Path
) -> None:
    """Wherever it is: exit code 1, that entry, and the same from the other verifier."""
    envelope = json.loads(kept.bundle.read_bytes())
    payload = b64decode(envelope["payload"])
    entries = json.loads(payload)["predicate"]["entries"]
    position = int(len(entries) * place)
    text = json.dumps(entries[position]["entry"], ensure_ascii=False).encode()
    assert payload.count(text) == 1
    at = payload.index(text) + text.index(b"correlation") + len(b'correlation\\":\\"') + 2
    changed = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
    envelope["payload"] = b64encode(changed).decode()
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(envelope, separators=(",", ":")))
    code, made = ask("verify", str(path))
    assert (code, made["ok"], made["first_bad_entry"]["position"]) == (1, False, position)
    if NODE:
        assert node_says(path) == (1, made["first_bad_entry"])


def test_no_payload_and_no_secret_is_in_bundle_or_log(kept: Kept) -> None:
    """Neither what the run was given, nor what its tasks gave, nor any key, anywhere."""
    keys = json.loads((kept.data / "credentials.json").read_text())
    secrets = {keys[name] for name in ("operator", "admin", "agent")}
    forbidden = [word.encode() for word in {INPUT_TEXT, OUTPUT_TEXT, "first time", *secrets}]
    bundle = b64decode(json.loads(kept.bundle.read_bytes())["payload"])
    texts = [bundle, bundle.replace(b"\\", b"")]
    with closing(sqlite3.connect(f"file:{kept.database}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT entry, items FROM evidence_entries").fetchall()
        tokens = database.execute("SELECT token_hash FROM workflow_tasks").fetchall()
    texts += [part for entry, items in rows for part in (entry, unpacked(items or b"[]"))]
    assert len(texts) > 10
    for text in texts:
        assert not [word for word in forbidden if word in text]
        assert not [token for (token,) in tokens if token and token.hex().encode() in text]


# The service


@pytest.fixture
def calling(seeded: Installation) -> Calling:
    """The options with which a tenant's admin calls the shared installation."""

    def options(tenant: str) -> tuple[str, ...]:
        secret = asyncio.run(seeded.secret("admin", tenant))
        return ("--address", seeded.coordinator.address, "--key", secret)

    return options


def test_a_log_is_audited_over_the_service_against_what_was_published(
    seeded: Installation, calling: Calling, ask: Ask, tmp_path: Path
) -> None:
    me = calling(TENANT)
    published = tmp_path / "published"
    code, signed = ask("checkpoint", "--out", str(published), *me)
    assert (code, signed["checkpoint"]) == (0, published.read_text())
    assert ask("list", "--limit", "5", *me)[0] == 0
    code, keys = ask("keys", *me)
    assert code == 0
    trusted = ("--root-key", keys["root_key"])
    code, made = ask("audit", "--from-file", str(published), *trusted, *me)
    assert (code, made["ok"], made["key_given"]) == (0, True, True), made
    [log] = made["logs"]
    assert log["log"] == TENANT
    assert log["size"] > signed["size"], "to audit, to list and to sign are acts as well"
    assert log["checkpoints"] >= 2


def test_an_entry_is_shown_with_a_proof_that_was_verified_here(
    seeded: Installation, calling: Calling, ask: Ask
) -> None:
    me = calling(TENANT)
    run_id = seeded.seeds[f"{TENANT}/ended"]
    code, entries = ask("list", "--run", run_id, *me)
    assert code == 0
    assert [entry["kind"] for entry in entries] == ["run.start", "run.cancel"]
    code, made = ask("show", str(entries[1]["index"]), *me)
    assert (code, made["verified"], made["entry"]) == (0, True, entries[1])
    assert {item["run"] for item in made["items"]} == {run_id}
    assert made["items"][-1]["kind"] == "run.cancelled"


def test_a_run_is_exported_by_an_abbreviation(
    seeded: Installation, calling: Calling, ask: Ask, tmp_path: Path
) -> None:
    run_id = seeded.seeds[f"{TENANT}/ended"]
    path = tmp_path / "bundle.json"
    code, made = ask("export", run_id[-12:], "-o", str(path), *calling(TENANT))
    assert (code, made["run_id"], made["verified"]) == (0, run_id, True)
    code, made = ask("verify", str(path))
    assert (code, made["tenant"], made["end"]) == (0, TENANT, "run.cancelled")


def test_another_tenant_sees_nothing(
    seeded: Installation, calling: Calling, ask: Ask, tmp_path: Path
) -> None:
    """Not a run, not a bundle, not an entry: its own log is all there is."""
    stranger, run_id = calling("beta"), seeded.seeds[f"{TENANT}/ended"]
    assert ask("list", "--run", run_id, *stranger)[0] == 5
    assert ask("export", run_id, "-o", str(tmp_path / "bundle"), *stranger)[0] == 5
    assert list(tmp_path.iterdir()) == []
    code, entries = ask("list", "--limit", "1000", *stranger)
    assert code == 0
    assert {entry["log"] for entry in entries} == {"beta"}
    assert run_id not in json.dumps(entries)
    code, made = ask("audit", *stranger)
    assert (code, [log["log"] for log in made["logs"]]) == (0, ["beta"])
    assert ask("list", "--tenant", TENANT, *stranger)[0] == 5
    operator = ("--address", stranger[1], "--key", seeded.operator_secret())
    code, entries = ask("list", *operator)
    assert (code, {entry["log"] for entry in entries}) == (0, {""})


def test_new_entries_are_followed_as_they_are_committed(
    seeded: Installation, calling: Calling, ask: Ask
) -> None:
    me = calling(TENANT)
    _, signed = ask("checkpoint", *me)
    since = ("--since-index", str(signed["size"]), "--json")
    process = subprocess.Popen(
        [*TENURE, "evidence", "watch", *since, *me],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        # What follows the checkpoint is its own entry, and then the watch's.
        first = json.loads(process.stdout.readline())
        assert ask("show", str(first["index"]), *me)[0] == 0
        more = [json.loads(process.stdout.readline()) for _ in range(3)]
    finally:
        process.kill()
        process.communicate()
    indexes = [first["index"], *(entry["index"] for entry in more)]
    assert indexes == list(range(signed["size"], signed["size"] + 4))
