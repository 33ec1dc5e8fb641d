"""Whatever is changed in a bundle is found, and the first bad entry is named."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.evidence import mutations, synthetic

from tenure_evidence import bundle, plan, sequence
from tenure_evidence.canonical import canonical, read
from tenure_evidence.report import Report
from tenure_evidence.verify import verify

KEY = synthetic.ROOT.verifier.text
MUTATIONS = list(mutations.all_mutations())
VERIFIER = Path(__file__).parents[2] / "examples" / "verify-bundle" / "verify.mjs"


def place_of(report: Report) -> int | None:
    return report.first_bad.position if report.first_bad else None


def test_there_are_enough_mutations_of_every_kind() -> None:
    assert len(MUTATIONS) > 500
    assert len({mutation.name for mutation in MUTATIONS}) > 400


def test_every_mutation_under_the_old_signature_is_found_and_its_entry_named() -> None:
    for mutation in MUTATIONS:
        report = verify(mutations.under_old_signature(mutation.statement), KEY)
        assert not report.ok, mutation.name
        assert place_of(report) in mutation.expected, (mutation.name, report.findings)
        if mutation.envelope_only:
            assert [finding.what for finding in report.findings] == ["envelope"], mutation.name


def test_not_even_the_holder_of_the_key_can_change_what_the_log_has() -> None:
    """The same mutations, signed anew by the newest key: the proofs alone find them."""
    for mutation in MUTATIONS:
        data = bundle.sealed(canonical(mutation.statement), synthetic.NEWEST)
        report = verify(data, KEY)
        assert report.ok == mutation.envelope_only, mutation.name
        assert place_of(report) in mutation.expected, (mutation.name, report.findings)


def test_another_key_makes_nothing_good() -> None:
    stranger = synthetic.signing_key(9)
    for signer in (
        stranger,
        synthetic.ROOT,
        synthetic.signing_key(2, synthetic.OTHER_INSTALLATION),
    ):
        data = bundle.sealed(canonical(mutations.statement()), signer)
        report = verify(data, KEY)
        assert [finding.what for finding in report.findings] == ["envelope"]
        for mutation in MUTATIONS[::20]:
            report = verify(bundle.sealed(canonical(mutation.statement), signer), KEY)
            assert place_of(report) in mutation.expected


def test_a_whole_history_of_another_installation_is_not_the_trusted_one() -> None:
    """Everything is consistent, but by keys of somebody else: only the key can tell."""
    report = verify(synthetic.good_bundle(), synthetic.signing_key(9).verifier.text)
    assert [finding.what for finding in report.findings] == ["key"]
    assert report.first_bad is None


def envelope_changes() -> list[dict[str, Any]]:
    good = read(synthetic.good_bundle())
    signature = good["signatures"][0]
    changes: list[dict[str, Any]] = [
        {"payloadType": "application/json"},
        {"more": "members"},
        {"signatures": []},
        {"signatures": [signature, signature]},
        {"signatures": [{**signature, "keyid": "00000000"}]},
        {"signatures": [{**signature, "keyid": ""}]},
        {"signatures": [{**signature, "sig": "AA=="}]},
        {"signatures": [{**signature, "more": "members"}]},
        {"payload": ""},
        {"payload": 7},
    ]
    for place in range(0, len(signature["sig"]), 3):
        other = "A" if signature["sig"][place] != "A" else "B"
        text = signature["sig"][:place] + other + signature["sig"][place + 1 :]
        changes.append({"signatures": [{**signature, "sig": text}]})
    return [{**good, **change} for change in changes]


def test_a_changed_envelope_is_found_and_no_entry_blamed() -> None:
    for changed in envelope_changes():
        report = verify(canonical(changed), KEY)
        assert not report.ok
        assert report.first_bad is None


@pytest.mark.parametrize("change", [b"\n", b" ", b"\x00"])
def test_another_spelling_of_the_file_is_a_change(change: bytes) -> None:
    assert not verify(synthetic.good_bundle() + change, KEY).ok
    assert not verify(change + synthetic.good_bundle(), KEY).ok


def spans(payload: bytes) -> list[tuple[int, int]]:
    """Where each entry begins and ends in the statement's bytes."""
    starts = []
    place = payload.find(b'{"entry":"')
    while place >= 0:
        starts.append(place)
        place = payload.find(b'{"entry":"', place + 1)
    end = payload.find(b'],"installation":')
    return [(start, stop - 1) for start, stop in zip(starts, [*starts[1:], end + 1], strict=True)]


def payload_place(data: bytes) -> int:
    """Where the payload's base64 begins in the file."""
    return data.index(b'"payload":"') + len(b'"payload":"')


def test_one_byte_changed_anywhere_in_the_file_is_found_and_its_entry_named() -> None:
    data = synthetic.good_bundle()
    start = payload_place(data)
    entries = spans(bundle.open_envelope(data).payload)
    chance = random.Random(9162)
    named = 0
    for _ in range(700):
        place = chance.randrange(len(data))
        changed = bytearray(data)
        changed[place] ^= chance.randrange(1, 256)
        report = verify(bytes(changed), KEY)
        assert not report.ok
        # Six bits of base64 lie in one byte of the payload or in two.
        first = (place - start) * 6 // 8
        touched = [n for n, (begin, end) in enumerate(entries) if begin < first < end - 2]
        if touched:
            assert place_of(report) == touched[0], (place, changed[place], report.findings)
            named += 1
    assert named > 500


def test_a_file_cut_off_is_found_and_the_entry_at_the_cut_named() -> None:
    data = synthetic.good_bundle()
    start = payload_place(data)
    entries = spans(bundle.open_envelope(data).payload)
    for length in range(0, len(data), 97):
        report = verify(data[:length], KEY)
        assert not report.ok
        cut = max(0, length - start) // 4 * 3
        inside = [n for n, (begin, end) in enumerate(entries) if begin + 12 < cut < end]
        if inside:
            assert place_of(report) == inside[0], (length, report.findings)


@given(st.binary(max_size=200))
def test_garbage_is_bad_and_never_an_error(data: bytes) -> None:
    assert not verify(data, KEY).ok
    assert not verify(bundle.sealed(data, synthetic.NEWEST), KEY).ok


@pytest.mark.parametrize("part", [b"{},", b"[0],", b"[", b'{"a":', b'{"entry":"'])
def test_a_bomb_is_bad_before_it_fills_the_memory(
    part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "BRACKETS_MAX", 50_000)
    head = b'{"_type":"x","predicate":{"entries":['
    assert not verify(part * 100_000, KEY).ok
    for count in (5_000, 100_000):
        assert not verify(bundle.sealed(head + part * count, synthetic.NEWEST), KEY).ok


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(st.data())
def test_any_value_in_any_place_is_bad_and_never_an_error(data: st.DataObject) -> None:
    value = mutations.statement()
    holder: Any = value
    while True:
        keys: Sequence[Any] = sorted(holder) if isinstance(holder, dict) else range(len(holder))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys))
        if isinstance(holder[key], dict | list) and data.draw(st.booleans()):
            holder = holder[key]
            continue
        other = data.draw(JSON_VALUES)
        if other == holder[key] and type(other) is type(holder[key]):
            return
        holder[key] = other
        break
    payload = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert not verify(bundle.sealed(payload.encode(), synthetic.NEWEST), KEY).ok


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                name: JSON_VALUES | st.sampled_from(["run.started", "task.leased", "extract"])
                for name in ("seq", "kind", "task", "term", "definition", "handler")
            },
        ),
        max_size=4,
    )
)
def test_events_of_any_types_are_judged_and_never_an_error(items: list[dict[str, Any]]) -> None:
    events = sequence.Sequence(plan.plan_of(synthetic.definition_of(synthetic.DIAMOND)))
    for item in items:
        events.take(item)


def run_node(path: Path) -> tuple[int, dict[str, Any]]:
    node = shutil.which("node") or "node"
    done = subprocess.run(
        [node, str(VERIFIER), str(path), KEY],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, answer


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_a_verifier_in_another_language_agrees(tmp_path: Path) -> None:
    """On the good bundle, on every 40th mutation, and on changed envelopes."""
    cases = {"good": synthetic.good_bundle()}
    for number, mutation in enumerate(MUTATIONS[::40]):
        seal = mutations.under_old_signature if number % 2 else sealed_anew
        cases[f"{number} {mutation.name}"] = seal(mutation.statement)
    for number, changed in enumerate(envelope_changes()[::8]):
        cases[f"envelope {number}"] = canonical(changed)
    paths = {name: tmp_path / f"{number}.json" for number, name in enumerate(cases)}
    for name, path in paths.items():
        path.write_bytes(cases[name])
    with ThreadPoolExecutor(4) as pool:
        answers = dict(zip(cases, pool.map(run_node, paths.values()), strict=True))
    for name, (code, answer) in answers.items():
        report = verify(cases[name], KEY)
        assert answer["ok"] == report.ok, (name, answer, report.findings)
        assert code == (0 if report.ok else 1), name
        named = answer["first_bad_entry"]
        assert (named and named["position"]) == place_of(report), (name, answer, report.findings)
    assert len(VERIFIER.read_text().splitlines()) < 170


def sealed_anew(value: mutations.Statement) -> bytes:
    return bundle.sealed(canonical(value), synthetic.NEWEST)
