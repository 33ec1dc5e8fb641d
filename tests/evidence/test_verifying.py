"""What a good bundle is, what the law of Precedence asks, and how the command answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from tests.evidence import synthetic

import tenure_evidence
from tenure_evidence import bundle, digests
from tenure_evidence.__main__ import main
from tenure_evidence.canonical import hash_text
from tenure_evidence.verify import verify

KEY = synthetic.ROOT.verifier.text
DEFINITION = synthetic.definition_of(synthetic.DIAMOND)


def one_run(*rows: list[dict[str, Any]], run: synthetic.Run) -> bytes:
    """The bundle of a run whose entries have these items, honestly logged and signed."""
    log = synthetic.Log()
    for items in rows:
        log.append("something", items)
    return synthetic.built(synthetic.content_of(log, run.name))


def first_order_fault(*rows: list[dict[str, Any]], run: synthetic.Run) -> tuple[int | None, str]:
    """The place and reason of the only fault, which must be one of order."""
    report = verify(one_run(*rows, run=run), KEY)
    assert [finding.what for finding in report.findings] == ["order"], report.findings
    return report.findings[0].position, report.findings[0].reason


def new_run() -> synthetic.Run:
    return synthetic.Run("run-1", DEFINITION)


def test_a_good_bundle_is_good_for_whoever_trusts_a_key_of_its_chain() -> None:
    for key in (None, KEY, synthetic.NEWEST.verifier.text):
        report = verify(synthetic.good_bundle(), key)
        assert report.ok, report.findings
        assert report.key_from_bundle == (key is None)
    assert (report.tenant, report.run, report.end) == ("acme", "run-1", "run.succeeded")
    assert (report.entries, report.events, report.log_size) == (11, 14, 20)


def test_a_bundle_of_an_open_run_is_good_and_says_so() -> None:
    content = synthetic.content_of(synthetic.diamond_log(), size=9)
    report = verify(synthetic.built(content), KEY)
    assert report.ok, report.findings
    assert report.end == ""


def test_a_bundle_from_before_a_rotation_needs_a_key_from_before_it() -> None:
    content = replace(synthetic.content_of(synthetic.diamond_log()), certificates=())
    content = replace(content, checkpoint=synthetic.diamond_log().checkpoint(synthetic.ROOT))
    data = synthetic.built(content, synthetic.ROOT)
    assert verify(data, KEY).ok
    assert not verify(data, synthetic.NEWEST.verifier.text).ok


def test_a_tenants_own_constitution_is_part_of_what_the_run_was_started_under() -> None:
    log = synthetic.Log()
    run = new_run()
    own = b'{"articles":[1]}'
    digest = hash_text(digests.constitution_digest(synthetic.PLATFORM, own))
    log.append("run.start", [{**run.started(), "constitution": digest}])
    content = replace(synthetic.content_of(log), constitution_tenant=own)
    assert verify(synthetic.built(content), KEY).ok
    bad = verify(synthetic.built(replace(content, constitution_tenant=b"")), KEY)
    assert [finding.what for finding in bad.findings] == ["constitution"]


def test_the_definition_is_checked_also_where_an_entry_stands_before_the_start() -> None:
    log, run = synthetic.Log(), new_run()
    log.append("run.start", verdict="deny", refusal="NO", subject={"run": "run-1"})
    log.append("run.start", [run.started()])
    other = synthetic.definition_of({"extract": ()})
    assert verify(synthetic.built(synthetic.content_of(log)), KEY).ok
    bad = verify(synthetic.built(synthetic.content_of(log, definition=other)), KEY)
    assert [finding.what for finding in bad.findings] == ["definition"]


def test_a_task_leased_before_what_it_depends_on_is_named() -> None:
    run = new_run()
    rows = [run.started()], [run.leased("extract", term=1)], [run.leased("left", term=1)]
    assert first_order_fault(*rows, run=run) == (
        2, "event 3: task 'left' is leased before 'extract' succeeded",
    )  # fmt: skip


def test_a_failed_or_retried_task_frees_nothing() -> None:
    for kind in ("task.failed", "task.retrying"):
        run = new_run()
        rows = (
            [run.started(), run.leased("extract", term=1)],
            [run.ended("extract", 1, kind)],
            [run.leased("left", term=1)],
        )
        assert first_order_fault(*rows, run=run)[0] == 2


def test_terms_grow_and_each_has_one_result() -> None:
    run = new_run()
    rows = [run.started()], [run.leased("extract", term=3)], [run.leased("extract", term=3)]
    assert "does not grow" in first_order_fault(*rows, run=run)[1]
    run = new_run()
    rows = (
        [run.started(), run.leased("extract", term=1)],
        [run.ended("extract", 1, "task.retrying"), run.ended("extract", 1, "task.failed")],
        [],
    )
    assert "second result" in first_order_fault(*rows[:2], run=run)[1]
    run = new_run()
    rows = [run.started()], [run.leased("extract", term=2)], [run.ended("extract", 1)]
    assert "not its last lease" in first_order_fault(*rows, run=run)[1]


def test_nothing_comes_after_the_end_or_before_the_start() -> None:
    run = new_run()
    ends = [run.started()]
    for task in synthetic.DIAMOND:
        ends.append(run.item("task.cancelled", task=task, attempt=0, term=0, agent=""))
    rows = ends, [run.item("run.cancelled")], [run.item("run.cancelling")]
    assert "after the end" in first_order_fault(*rows, run=run)[1]
    run = new_run()
    rows2 = [run.item("run.cancelling")], [run.started()]
    assert first_order_fault(*rows2, run=run)[0] == 0
    run = new_run()
    rows2 = [run.started()], [run.started()]
    assert first_order_fault(*rows2, run=run)[0] == 1


def test_a_run_does_not_succeed_without_its_tasks() -> None:
    run = new_run()
    rows = [run.started()], [run.item("run.succeeded")]
    assert "has not succeeded" in first_order_fault(*rows, run=run)[1]


def test_tasks_are_those_of_the_definition_as_it_was() -> None:
    run = new_run()
    unknown = {**run.leased("extract", term=1), "task": "other", "seq": 2}
    run.seq = 0
    assert "has not" in first_order_fault([run.started()], [unknown], run=run)[1]
    for name, value in (("handler", "shell"), ("definition", "sha256:" + "0" * 64)):
        run = new_run()
        rows = [run.started()], [{**run.leased("extract", term=1), name: value}]
        assert first_order_fault(*rows, run=run)[0] == 1


def test_events_left_out_of_an_honest_log_leave_a_gap() -> None:
    run = new_run()
    rows = (
        [run.started()],
        [run.leased("extract", term=1)],
        [run.item("task.lease_lost", task="extract")],
    )
    run.seq += 1
    skipping = (*rows, [run.leased("extract", term=2)])
    assert first_order_fault(*skipping, run=run) == (3, "event 4 is missing before event 5")


def test_an_item_of_several_tasks_says_an_event_of_each() -> None:
    """In their order and with numbers of their own, as if each had an item to itself."""
    run = new_run()
    first = [run.started(), run.leased("extract")], [run.ended("extract", 1)]
    rows = [*first, [run.leased("left", "right")], [run.ended("right", 1)], [run.ended("left", 1)]]
    early = [*rows, [run.leased("left", "load", term=2)]]
    assert first_order_fault(*early, run=run) == (
        5, "event 8: task 'left' is leased after it succeeded",
    )  # fmt: skip
    good = run.leased("left", "right", term=2)
    for changed in ({"tasks": ["left"]}, {"tasks": "ab"}, {"task": "left"}, {"seq": "8"}):
        found = verify(one_run(*rows, [{**good, **changed}], run=run), KEY).findings
        assert "has tasks that it cannot have" in found[0].reason, changed


def test_the_envelope_is_signed_as_dsse_says() -> None:
    # The example of the DSSE protocol, and the same by hand for a bundle.
    assert bundle.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    envelope = json.loads(synthetic.good_bundle())
    payload = b64decode(envelope["payload"])
    signed = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
    public = Ed25519PublicKey.from_public_bytes(synthetic.NEWEST.verifier.public)
    public.verify(b64decode(envelope["signatures"][0]["sig"]), signed)
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "urn:tenure:run-evidence:v1"
    assert [each["name"] for each in statement["subject"]] == ["run/run-1", "workflow/etl@3"]


def test_a_bundle_taken_apart_is_what_it_was_made_of() -> None:
    content = synthetic.content_of(synthetic.diamond_log())
    parsed = bundle.parse(synthetic.good_bundle())
    assert [name for name, _ in parsed.subjects] == ["run/run-1", "workflow/etl@3"]
    assert replace(parsed, subjects=()) == content
    for bad in (b"", b"{}", synthetic.good_bundle()[:-1], bundle.sealed(b"{}", synthetic.NEWEST)):
        with pytest.raises(bundle.BundleInvalid):
            bundle.parse(bad)


def test_what_cannot_be_used_is_told_from_what_is_bad() -> None:
    report = verify(synthetic.good_bundle(), "no key")
    assert not report.usable
    assert not report.ok
    assert not verify(b" " * (bundle.FILE_BYTES_MAX + 1), KEY).usable


def test_the_command_answers_people_and_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, key_path = tmp_path / "run.bundle", tmp_path / "key"
    path.write_bytes(synthetic.good_bundle())
    key_path.write_text(f"# the installation's root\n\n{KEY}\n")
    assert main(["verify", str(path)]) == 0
    assert "taken from the bundle itself" in capsys.readouterr().out
    for key in (KEY, str(key_path)):
        assert main(["verify", str(path), "--key", key]) == 0
        out = capsys.readouterr().out
        assert out.startswith("good: run run-1 of tenant acme, run.succeeded: 14 events")
        assert "taken from the bundle" not in out
    content = synthetic.content_of(synthetic.diamond_log())
    entries = [replace(content.entries[0], proof=()), *content.entries[1:]]
    path.write_bytes(synthetic.built(replace(content, entries=entries)))
    assert main(["verify", str(path), "--key", KEY]) == 1
    assert capsys.readouterr().out.startswith("entry 0 of the bundle (number 1 of the log): it is")
    assert main(["verify", str(path), "--key", KEY, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert answer["first_bad_entry"] == {"position": 0, "index": 1}
    for arguments in (
        [str(tmp_path / "none")],
        [str(path), "--key", "none"],
        [str(path), "--key", str(path)],
    ):
        assert main(["verify", *arguments]) == 2
        assert "cannot be verified" in capsys.readouterr().err


def test_what_a_stranger_wrote_does_not_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = replace(synthetic.content_of(synthetic.diamond_log()), root_key="\x1b[2Jx\n")
    (tmp_path / "bad").write_bytes(synthetic.built(content))
    assert main(["verify", str(tmp_path / "bad")]) == 1
    assert "\x1b" not in capsys.readouterr().out


def test_the_module_works_alone_and_knows_nothing_of_the_coordinator(tmp_path: Path) -> None:
    (tmp_path / "run.bundle").write_bytes(synthetic.good_bundle())
    source = Path(tenure_evidence.__file__).parents[1]
    program = (
        "import runpy, sys\n"
        "sys.argv = ['tenure_evidence', 'verify', sys.argv[1]]\n"
        "try:\n    runpy.run_module('tenure_evidence', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "foreign = {'tenure', 'tenure_server', 'tenure_client', 'tenure_agent', 'grpc', 'google'}\n"
        "assert 'tenure_evidence' in names and not names & foreign, names & foreign\n"
        "assert 'tenure_evidence.signing' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run.bundle")],
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "good: run run-1" in done.stdout
