"""Verifier keys, signed notes, chains and the key file."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path

import pytest

from tenure_evidence import keys, notes, tree
from tenure_evidence.signing import KeyFileInvalid, SigningKey, SigningKeys

INSTALLATION = "6f1c64a4-1d55-4f39-9a86-b3ab2ea3ed4e"

#: The example of the C2SP signed-note specification, with Go's key for it.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"  # noqa: E501
)


def key_of(number: int) -> SigningKey:
    return SigningKey(notes.installation_name(INSTALLATION), bytes([number]) * 32)


def chain_of(length: int) -> tuple[str, list[str]]:
    pairs = [(key_of(n), key_of(n + 1), n + 1) for n in range(1, length)]
    return key_of(1).verifier.text, [
        keys.certificate(old, INSTALLATION, number, new.verifier, 1000 * number)
        for old, new, number in pairs
    ]


def test_a_note_signed_by_the_go_implementation_verifies() -> None:
    key = notes.VerifierKey.parse(GO_KEY)
    assert key.text == GO_KEY
    assert notes.Note.parse(GO_NOTE).opened([key]) == key


@pytest.mark.parametrize("place", range(0, len(GO_NOTE), 7))
def test_a_changed_note_does_not_verify(place: int) -> None:
    other = "A" if GO_NOTE[place] != "A" else "B"
    changed = GO_NOTE[:place] + other + GO_NOTE[place + 1 :]
    with pytest.raises(notes.NoteInvalid):
        notes.Note.parse(changed).opened([notes.VerifierKey.parse(GO_KEY)])


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "a+b", GO_KEY + "\n", GO_KEY[:-1], GO_KEY.replace("c74f20a3", "c74f20a4"),
        GO_KEY.replace("c7", "C7"), "a b" + GO_KEY, GO_KEY.replace("+AR", "+AB"),
        "+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW",
    ],
)  # fmt: skip
def test_what_is_no_verifier_key_is_refused(text: str) -> None:
    with pytest.raises(notes.NoteInvalid):
        notes.VerifierKey.parse(text)


def test_bits_that_decoders_overlook_are_not_overlooked() -> None:
    assert notes.strict_base64("AA==") == b"\x00"
    assert notes.strict_base64("AB==") is None
    assert notes.strict_base64("AA= =") is None
    assert notes.strict_base64("é") is None


def test_a_checkpoint_reads_back() -> None:
    checkpoint = notes.Checkpoint(
        origin=notes.origin_of(INSTALLATION, "acme"), size=20852163, root=tree.EMPTY_ROOT
    )
    assert checkpoint.text == (
        f"tenure.v1/{INSTALLATION}/acme\n20852163\n{b64encode(tree.EMPTY_ROOT).decode()}\n"
    )
    root, certificates = chain_of(1)
    note = notes.sign_note(key_of(1), checkpoint.text)
    chain = keys.Chain.read(root, certificates)
    assert notes.Checkpoint.parse(chain.open(note)) == checkpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "o\n1\n",
        "o\n01\nAA==\n",
        "o\n-1\nAA==\n",
        "o\n1\nAA==\n",
        "o\n1\nAA==\nmore\n",
        "\n\n\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(notes.NoteInvalid):
        notes.Checkpoint.parse(text)


def test_a_second_signature_does_not_help_a_wrong_one() -> None:
    key = key_of(1)
    note = notes.sign_note(key, "text\n")
    line = note.rpartition("\n\n")[2]
    wrong = b64encode(key.verifier.hash + bytes(64)).decode()
    doubled = note + f"— {key.verifier.name} {wrong}\n"
    with pytest.raises(notes.NoteInvalid, match="does not verify"):
        notes.Note.parse(doubled).opened([key.verifier])
    witnessed = note + notes.sign_note(key_of(2), "other\n").rpartition("\n\n")[2]
    assert notes.Note.parse(witnessed).opened([key.verifier]) == key.verifier
    assert line in witnessed


def by(signer: int, number: int, key: int, installation: str = INSTALLATION) -> str:
    """The certificate of one key by another, right or wrong."""
    return keys.certificate(key_of(signer), installation, number, key_of(key).verifier, 1)


def test_whoever_trusts_a_key_trusts_those_after_it_only() -> None:
    chain = keys.Chain.read(*chain_of(4))
    assert [key.hash for key in chain.keys] == [key_of(n).verifier.hash for n in (1, 2, 3, 4)]
    assert chain.newest == key_of(4).verifier
    later = chain.trusting(key_of(3).verifier)
    assert later.key_for(key_of(4).verifier.hash) == key_of(4).verifier
    for older in (1, 2):
        with pytest.raises(keys.KeyUnknown):
            later.key_for(key_of(older).verifier.hash)
        with pytest.raises(notes.NoteInvalid, match="trusted"):
            later.open(notes.sign_note(key_of(older), "text\n"))
    with pytest.raises(keys.KeyUnknown):
        chain.trusting(key_of(9).verifier)


def test_a_chain_names_the_key_at_which_it_breaks() -> None:
    root, certificates = chain_of(4)
    for number, broken in (
        (2, certificates[1:]),
        (3, [certificates[0], certificates[2]]),
        (3, [certificates[0], certificates[0]]),
        (4, [*certificates[:2], certificates[2].replace("key\n4", "key\n5")]),
        (4, [*certificates[:2], by(9, 4, 4)]),
        (4, [*certificates[:2], by(3, 5, 4)]),
        (4, [*certificates[:2], by(3, 4, 1)]),
        (4, [*certificates[:2], by(3, 4, 4, "other")]),
        (4, [*certificates[:2], "garbage"]),
    ):  # fmt: skip
        with pytest.raises(keys.ChainInvalid) as caught:
            keys.Chain.read(root, broken)
        assert caught.value.number == number, caught.value
    with pytest.raises(keys.ChainInvalid, match="key 1 "):
        keys.Chain.read(GO_KEY, [])


def test_a_key_file_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "evidence.key"
    made = SigningKeys.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["evidence.key"]
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        SigningKeys.create(path)
    assert path.read_bytes() == before
    loaded = SigningKeys.load(path)
    assert loaded.newest.verifier == made.newest.verifier
    assert loaded.installation == made.installation
    assert made.newest.secret() not in repr(made)


def test_rotation_certifies_the_next_key_and_forgets_the_last(tmp_path: Path) -> None:
    first = SigningKeys.create(tmp_path / "evidence.key", INSTALLATION)
    second = first.rotate(5)
    third = second.rotate(6)
    loaded = SigningKeys.load(tmp_path / "evidence.key")
    assert loaded.certificates == third.certificates
    assert loaded.chain().keys == tuple(k.newest.verifier for k in (first, second, third))
    content = (tmp_path / "evidence.key").read_text()
    assert first.newest.secret() not in content
    assert second.newest.secret() not in content
    assert third.newest.secret() in content
    assert (tmp_path / "evidence.key").stat().st_mode & 0o777 == 0o600
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name != "posix", reason="modes of files are those of POSIX")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "evidence.key"
    SigningKeys.create(path)
    path.chmod(mode)
    with pytest.raises(KeyFileInvalid, match="others"):
        SigningKeys.load(path)


def test_a_damaged_key_file_is_refused_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "evidence.key"
    SigningKeys.create(path, INSTALLATION).rotate(5)
    whole = path.read_bytes()
    for damage in (
        b"", b"{}", b"[]", whole[:-9], whole.replace(b'"public"', b'"pubic"'),
        whole.replace(INSTALLATION.encode(), b"x"), b'{"installation":"x","keys":[]}',
        b'{"installation":"x","keys":[1]}', b'{"installation":"x","keys":7}',
        whole.replace(b'"private":"', b'"private":"AA'),
    ):  # fmt: skip
        path.write_bytes(damage)
        with pytest.raises(KeyFileInvalid):
            SigningKeys.load(path)
    with pytest.raises(FileNotFoundError):
        SigningKeys.load(tmp_path / "none")


def test_a_failed_rotation_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys_before = SigningKeys.create(tmp_path / "evidence.key")
    before = (tmp_path / "evidence.key").read_bytes()

    def refuse(*_: object) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="full"):
        keys_before.rotate(1)
    assert (tmp_path / "evidence.key").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
