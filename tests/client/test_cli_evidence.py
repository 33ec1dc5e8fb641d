"""`tenure evidence` against a fake coordinator that has a real log: tables, proofs, exit codes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.client.conftest import Refusal, Script, Tenure
from tests.evidence import synthetic

from tenure.v1 import evidence_pb2
from tenure_client.cli import app
from tenure_evidence import notes, tree

RUN_ID = "0199aaaa-1111-8222-8333-444455556666"
LOG = synthetic.diamond_log(RUN_ID)
SIZE = LOG.frontier.size


def entry(index: int, *, with_items: bool = False) -> evidence_pb2.EvidenceEntry:
    row = LOG.rows[index]
    items = row.items if with_items else []
    return evidence_pb2.EvidenceEntry(index=index, entry=row.entry, items=items)


def page(request: evidence_pb2.ListEntriesRequest) -> evidence_pb2.ListEntriesResponse:
    """Entries from the number asked for on, seven a page."""
    start = int(request.page_token or request.from_index)
    end = min(start + min(request.page_size, 7), SIZE)
    return evidence_pb2.ListEntriesResponse(
        entries=[entry(index, with_items=request.with_items) for index in range(start, end)],
        next_page_token=str(end) if end < SIZE else "",
    )


def proof(request: evidence_pb2.GetInclusionProofRequest) -> Any:
    if request.index >= request.size:
        return Refusal(grpc.StatusCode.NOT_FOUND, "the log has no such entry", "NOT_FOUND")
    return evidence_pb2.GetInclusionProofResponse(
        proof=tree.inclusion_proof(request.index, request.size, LOG.nodes),
        size=request.size,
        entry=entry(request.index),
    )


@pytest.fixture
def log_script(far_script: Script) -> Script:
    """A fake coordinator with the log of a run through a diamond, under a second key."""
    kept = [
        evidence_pb2.Checkpoint(note=LOG.checkpoint(size=size), size=size) for size in (SIZE, 9, 4)
    ]
    far_script.on("ListEntries", page)
    far_script.on("GetInclusionProof", proof)
    far_script.on(
        "GetCheckpoint",
        evidence_pb2.GetCheckpointResponse(checkpoint=LOG.checkpoint(), size=SIZE),
    )
    far_script.on("ListCheckpoints", evidence_pb2.ListCheckpointsResponse(checkpoints=kept))
    far_script.on(
        "GetSigningKeys",
        evidence_pb2.GetSigningKeysResponse(
            root_key=synthetic.ROOT.verifier.text, certificates=synthetic.CERTIFICATES
        ),
    )
    return far_script


def bundle_bytes() -> bytes:
    return synthetic.built(synthetic.content_of(LOG, RUN_ID))


def chunks(data: bytes) -> list[Any]:
    return [
        evidence_pb2.ExportRunResponse(chunk=data[start : start + 1000])
        for start in range(0, len(data), 1000)
    ]


def test_entries_are_a_table_for_people_and_a_document_for_programs(
    log_script: Script, tenure: Tenure
) -> None:
    done = tenure("evidence", "list", "--limit", "9")
    assert done.code == 0
    header, _, *rows = (line.split() for line in done.out.splitlines())
    assert header == ["INDEX", "TIME", "KIND", "PRINCIPAL", "VERDICT", "ITEMS", "ABOUT"]
    assert [row[0] for row in rows] == [str(index) for index in range(9)]
    assert "refused: FORBIDDEN" in done.out
    made = tenure("evidence", "list", "--since-index", "3", "--limit", "2", "--json").json()
    assert [each["index"] for each in made] == [3, 4]
    assert made[1]["refusal"] == "FORBIDDEN"


def test_filters_are_the_coordinators_affair(log_script: Script, tenure: Tenure) -> None:
    filters = ("--kind", "run.start", "--principal", "k-1", "--correlation", "c-2", "--refused")
    tenure("evidence", "list", *filters, "--run", RUN_ID, "--since-index", "5", "--limit", "3")
    [request] = log_script.requests("ListEntries")
    assert (request.kind, request.principal, request.correlation_id) == ("run.start", "k-1", "c-2")
    assert (request.run_id, request.from_index, request.page_size) == (RUN_ID, 5, 3)
    assert (request.refused_only, request.with_items) == (True, False)


def test_an_entry_is_shown_with_its_items_and_verified_here(
    log_script: Script, tenure: Tenure
) -> None:
    done = tenure("evidence", "show", "10")
    assert done.code == 0, done.err
    assert f"verified: in the log of {SIZE} entries" in done.out
    assert done.out.count("task.leased") == 3
    made = tenure("evidence", "show", "10", "--json").json()
    assert made["verified"] is True
    assert [item["kind"] for item in made["items"]].count("task.succeeded") == 2


@pytest.mark.parametrize("what", ["entry", "proof", "items", "checkpoint", "keys"])
def test_an_entry_that_cannot_be_proven_is_no_answer(
    what: str, log_script: Script, tenure: Tenure
) -> None:
    def changed(request: Any) -> Any:
        answer = proof(request)
        if what == "entry":
            answer.entry.entry = answer.entry.entry.replace(b'"allow"', b'"warn"')
        if what == "proof":
            answer.proof[0] = bytes(32)
        return answer

    def other_items(request: Any) -> Any:
        answer = page(request)
        answer.entries[0].items.pop()
        return answer

    log_script.on("GetInclusionProof", changed)
    if what == "items":
        log_script.on("ListEntries", other_items)
    stranger = synthetic.signing_key(9)
    if what == "checkpoint":
        note = LOG.checkpoint(stranger)
        log_script.on(
            "GetCheckpoint", evidence_pb2.GetCheckpointResponse(checkpoint=note, size=SIZE)
        )
    trusted = ("--root-key", stranger.verifier.text) if what == "keys" else ()
    done = tenure("evidence", "show", "10", *trusted)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert len(done.err.splitlines()) == 1


def test_an_entry_that_is_not_there_is_not_found(log_script: Script, tenure: Tenure) -> None:
    assert tenure("evidence", "show", str(SIZE)).code == 5


def test_a_checkpoint_is_a_note_to_publish(
    log_script: Script, tenure: Tenure, tmp_path: Path
) -> None:
    assert tenure("evidence", "checkpoint").out == LOG.checkpoint()
    path = tmp_path / "checkpoint"
    assert tenure("evidence", "checkpoint", "--out", str(path)).code == 0
    assert path.read_text() == LOG.checkpoint()
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint"]
    made = tenure("evidence", "checkpoint", "--json").json()
    assert (made["size"], made["checkpoint"]) == (SIZE, LOG.checkpoint())


def test_keys_are_the_root_and_the_certificates(log_script: Script, tenure: Tenure) -> None:
    done = tenure("evidence", "keys")
    assert done.out.splitlines()[0] == synthetic.ROOT.verifier.text
    assert synthetic.CERTIFICATES[0] in done.out
    made = tenure("evidence", "keys", "--json").json()
    assert made["newest_key"] == synthetic.NEWEST.verifier.text


def test_a_bundle_is_exported_whole_verified_and_verified_again_offline(
    log_script: Script,
    tenure: Tenure,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    log_script.on("ExportRun", chunks(bundle_bytes()))
    made = tenure("evidence", "export", RUN_ID, "--json").json()
    assert made["verified"] is True
    path = tmp_path / f"{RUN_ID}.bundle.json"
    assert path.read_bytes() == bundle_bytes()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    # Neither a coordinator nor a key is named here.
    assert app.invoke(["evidence", "verify", str(path)]) == 0
    assert capsys.readouterr().out.startswith(f"good: run {RUN_ID} of tenant acme")
    root = tmp_path / "root"
    root.write_text(synthetic.ROOT.verifier.text + "\n")
    assert app.invoke(["evidence", "verify", str(path), "--key", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["key_from_bundle"] is False


def test_a_changed_bundle_is_bad_and_its_first_bad_entry_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = synthetic.content_of(LOG, RUN_ID)
    part = content.entries[3]
    entries = [*content.entries]
    entries[3] = replace(part, entry=part.entry.replace(b'"allow"', b'"warn"'))
    bad = replace(content, entries=entries)
    path = tmp_path / "bundle"
    path.write_bytes(synthetic.built(bad))
    assert app.invoke(["evidence", "verify", str(path), "--json"]) == 1
    made = json.loads(capsys.readouterr().out)
    assert (made["ok"], made["first_bad_entry"]["position"]) == (False, 3)
    assert app.invoke(["evidence", "verify", str(tmp_path / "missing")]) == 2
    assert app.invoke(["evidence", "verify", str(path), "--key", "nothing"]) == 2


def test_an_export_that_breaks_off_begins_again_and_leaves_no_half(
    log_script: Script, tenure: Tenure, tmp_path: Path
) -> None:
    parts = chunks(bundle_bytes())
    gone = Refusal(
        grpc.StatusCode.UNAVAILABLE, "the coordinator is stopping", "STOPPING", retry_after=0.0
    )
    log_script.on("ExportRun", [*parts[:2], gone], parts)
    path = tmp_path / "bundle"
    done = tenure("--wait-seconds", "5", "evidence", "export", RUN_ID, "-o", str(path))
    assert done.code == 0, done.err
    assert path.read_bytes() == bundle_bytes()
    log_script.on("ExportRun", [*parts[:2], Refusal(grpc.StatusCode.NOT_FOUND, "no such run")])
    assert tenure("evidence", "export", RUN_ID, "-o", str(tmp_path / "other")).code == 5
    assert [each.name for each in tmp_path.iterdir()] == ["bundle"]


def test_a_file_in_a_folder_that_is_not_there_is_refused_at_once(
    log_script: Script, tenure: Tenure, tmp_path: Path
) -> None:
    for command in (("export", RUN_ID), ("checkpoint",)):
        done = tenure("evidence", *command, "--out", str(tmp_path / "none" / "file"))
        assert done.code == 2
        assert f"there is no folder {tmp_path / 'none'}" in done.err
    assert log_script.heard == []


def test_an_export_that_does_not_verify_is_a_failure(
    log_script: Script, tenure: Tenure, tmp_path: Path
) -> None:
    data = bundle_bytes()
    log_script.on("ExportRun", chunks(data[:200] + b"A" + data[201:]))
    done = tenure("evidence", "export", RUN_ID, "-o", str(tmp_path / "bundle"))
    assert done.code == 1
    assert "BAD: " in done.out


def test_a_whole_log_is_audited_against_what_was_published(
    log_script: Script, tenure: Tenure, tmp_path: Path
) -> None:
    published = tmp_path / "published"
    published.write_text(LOG.checkpoint(size=6))
    done = tenure("evidence", "audit", "--from-file", str(published))
    assert done.code == 0, done.out + done.err
    assert f"good: the log of tenant acme: {SIZE} entries, 4 checkpoints agree" in done.out
    made = tenure("evidence", "audit", "--json", "--root-key", synthetic.ROOT.verifier.text).json()
    assert (made["ok"], made["key_given"]) == (True, True)
    assert made["logs"][0]["root"] == LOG.frontier.root().hex()
    # Reading grows the log; only what was signed before is asked for.
    assert all(request.with_items for request in log_script.requests("ListEntries"))


def test_an_audit_names_a_changed_entry_and_a_log_that_was_rolled_back(
    log_script: Script, tenure: Tenure, tmp_path: Path
) -> None:
    def changed(request: Any) -> Any:
        answer = page(request)
        for each in answer.entries:
            if each.index == 8:
                each.entry = each.entry.replace(b'"took":70', b'"took":71')
        return answer

    log_script.on("ListEntries", changed)
    made = tenure("evidence", "audit", "--json")
    assert made.code == 1
    first = json.loads(made.out)["logs"][0]["first_bad_entry"]
    assert (first["index"], first["until"]) == (4, 8)
    log_script.on("ListEntries", page)
    log_script.on(
        "GetCheckpoint",
        evidence_pb2.GetCheckpointResponse(checkpoint=LOG.checkpoint(size=9), size=9),
    )
    log_script.on("ListCheckpoints", evidence_pb2.ListCheckpointsResponse())
    published = tmp_path / "published"
    published.write_text(LOG.checkpoint(size=15))
    assert tenure("evidence", "audit").code == 0
    done = tenure("evidence", "audit", "--from-file", str(published))
    assert done.code == 1
    assert "entry 9: the log has 9 entries, but had 15: it was cut off or rolled back" in done.out


def test_a_checkpoint_file_that_is_none_cannot_be_used(
    log_script: Script, tenure: Tenure, tmp_path: Path
) -> None:
    path = tmp_path / "note"
    assert tenure("evidence", "audit", "--from-file", str(path)).code == 2
    path.write_text("hello")
    assert tenure("evidence", "audit", "--from-file", str(path)).code == 2
    assert tenure("evidence", "audit", "--root-key", "hello").code == 2
    stranger = synthetic.signing_key(9)
    path.write_text(notes.sign_note(stranger, "hello\n"))
    assert tenure("evidence", "audit", "--from-file", str(path)).code == 1


def test_new_entries_are_watched_without_gap_or_repeat(log_script: Script, tenure: Tenure) -> None:
    gone = Refusal(grpc.StatusCode.UNAVAILABLE, "gone", "STOPPING", retry_after=0.0)
    denied = Refusal(grpc.StatusCode.PERMISSION_DENIED, "revoked", "ROLE_MISSING")
    batch = evidence_pb2.WatchEntriesResponse
    log_script.on(
        "WatchEntries",
        [batch(entries=[entry(3), entry(4)]), gone],
        [batch(entries=[entry(4), entry(5)])],
        [batch(entries=[entry(6)]), denied],
    )
    done = tenure("--wait-seconds", "5", "evidence", "watch", "--since-index", "3", "--json")
    assert done.code == 4
    assert [json.loads(line)["index"] for line in done.out.splitlines()] == [3, 4, 5, 6]
    asked = [request.from_index for request in log_script.requests("WatchEntries")]
    assert asked == [3, 5, 6]
    log_script.on("WatchEntries", [batch(entries=[entry(SIZE - 1)]), denied])
    done = tenure("evidence", "watch")
    assert done.code == 4
    assert len(done.out.splitlines()) == 0, "before the size that it began with"
    assert log_script.requests("WatchEntries")[-1].from_index == SIZE


def test_what_strangers_wrote_cannot_steer_the_terminal(log_script: Script, tenure: Tenure) -> None:
    raw = b'{"index":0,"kind":"\\u001b[31mred","verdict":"allow"}'
    answer = evidence_pb2.ListEntriesResponse(
        entries=[evidence_pb2.EvidenceEntry(index=0, entry=raw)]
    )
    log_script.on("ListEntries", answer)
    assert "\x1b" not in tenure("evidence", "list").out
