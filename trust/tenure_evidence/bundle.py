"""The bundle: one file that proves what became of one run. Made here, and taken apart.

A DSSE envelope, version 1, around an in-toto Statement, version 1, around what `Bundle` holds.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tenure_evidence import tree
from tenure_evidence.canonical import NotCanonical, canonical, read
from tenure_evidence.notes import SIGNATURE_BYTES, Signer, strict_base64

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:tenure:run-evidence:v1"

#: A bundle of 20,000 tasks has about 90 MiB.
FILE_BYTES_MAX = 128 << 20
#: Arrays and objects take much more room in memory than in a file. A bundle of 20,000 tasks has
#: some 400,000, and what is in the inputs of its definition.
BRACKETS_MAX = 8_000_000
_ENVELOPE_BRACKETS_MAX = 16

_HASH = re.compile(r"[0-9a-f]{64}")
_PREDICATE_TEXTS = ("tenant", "run", "installation", "root_key", "checkpoint", "definition")
_PREDICATE = {*_PREDICATE_TEXTS, "certificates", "constitution", "entries"}
#: Only where the run was moved to other versions of its workflow.
_MOVED_TO = "moved_to"


class BundleInvalid(ValueError):  # noqa: N818 - a finding about a file, not an error of the program
    """A file is not a bundle, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemPart:
    """An item of the run and its proof in its entry's tree."""

    #: Its place among all items of the entry.
    position: int
    item: bytes
    proof: Sequence[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryPart:
    """An entry, its proof in the checkpoint's tree, and those of its items that are the run's."""

    entry: bytes
    proof: Sequence[bytes]
    items: Sequence[ItemPart] = ()
    #: Why it is not in the form of an entry; empty when it is.
    broken: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a bundle says, all of it still to be verified."""

    tenant: str
    run: str
    installation: str
    #: Verifier key of the root, and the notes that certify the later keys.
    root_key: str
    certificates: Sequence[str]
    #: A signed note.
    checkpoint: str
    #: Canonical bytes of the definition that the run was started under.
    definition: bytes
    constitution_platform: bytes
    #: Empty where the tenant added nothing.
    constitution_tenant: bytes
    #: By index.
    entries: Sequence[EntryPart]
    #: Canonical bytes of the definitions that the run was moved to, one after the other.
    moved_to: Sequence[bytes] = ()
    #: Names of the subjects and their SHA-256, hexadecimal.
    subjects: Sequence[tuple[str, str]] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A DSSE envelope with its one signature."""

    payload: bytes
    #: Hash of the key, eight hexadecimal digits.
    key_id: str
    signature: bytes


def build(bundle: Bundle, workflow: str, definition_digest: str, signer: Signer) -> bytes:
    """Makes the file. `workflow` is ``<name>@<version>``; the subjects of `bundle` do not matter.

    `definition_digest` is as in entries, ``sha256:…``. The signer must be the newest key.
    """
    leaves = [tree.leaf_hash(part.item) for entry in bundle.entries for part in entry.items]
    subject = [
        {"name": f"run/{bundle.run}", "digest": {"sha256": tree.root(leaves).hex()}},
        {
            "name": f"workflow/{workflow}",
            "digest": {"sha256": definition_digest.removeprefix("sha256:")},
        },
    ]
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": subject,
        "predicateType": PREDICATE_TYPE,
        "predicate": _predicate(bundle),
    }
    return sealed(canonical(statement), signer)


def sealed(payload: bytes, signer: Signer) -> bytes:
    """Puts a statement's bytes into a signed envelope: the bytes of the file."""
    signature = signer.sign(pae(PAYLOAD_TYPE, payload))
    return canonical(
        {
            "payload": b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [
                {"keyid": signer.verifier.hash.hex(), "sig": b64encode(signature).decode()}
            ],
        }
    )


def pae(payload_type: str, payload: bytes) -> bytes:
    """What a DSSE signature is over: DSSE's pre-authentication encoding, version 1."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def open_envelope(data: bytes) -> Envelope:
    """Takes the file apart, without verifying the signature. Raises BundleInvalid."""
    if brackets_in(data) > _ENVELOPE_BRACKETS_MAX:
        raise BundleInvalid("is not a DSSE envelope of in-toto with one signature")
    try:
        value = read(data)
    except NotCanonical as error:
        raise BundleInvalid(f"the file {error}") from None
    match value:
        case {
            "payload": str(payload_text),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"keyid": str(key_id), "sig": str(signature_text), **more}],
            **rest,
        } if not more and not rest:
            payload, signature = strict_base64(payload_text), strict_base64(signature_text)
        case _:
            raise BundleInvalid("is not a DSSE envelope of in-toto with one signature")
    if payload is None:
        raise BundleInvalid("has a payload that is not base64")
    if signature is None or len(signature) != SIGNATURE_BYTES:
        raise BundleInvalid("has a signature that is not one of Ed25519")
    return Envelope(payload=payload, key_id=key_id, signature=signature)


def brackets_in(data: bytes) -> int:
    """How many arrays and objects can be in some JSON, at most."""
    return data.count(b"[") + data.count(b"{")


def parse(data: bytes) -> Bundle:
    """Takes a bundle apart, without verifying anything. Raises BundleInvalid."""
    try:
        value = read(open_envelope(data).payload)
    except NotCanonical as error:
        raise BundleInvalid(f"the statement {error}") from None
    bundle, problems = read_statement(value)
    broken = [entry.broken for entry in bundle.entries if entry.broken]
    for problem in (*problems, *broken):
        raise BundleInvalid(problem)
    return bundle


def read_statement(value: Mapping[str, Any]) -> tuple[Bundle, list[str]]:
    """Reads as much of a statement as there is, and says what is not as it should be."""
    problems: list[str] = []
    if value.get("_type") != STATEMENT_TYPE or value.get("predicateType") != PREDICATE_TYPE:
        problems.append("is not an in-toto statement about the evidence of a run")
    if value.keys() != {"_type", "predicateType", "predicate", "subject"}:
        problems.append("has members that a statement has not, or misses some")
    predicate = value.get("predicate")
    if not isinstance(predicate, dict):
        predicate = {}
    if predicate.keys() - {_MOVED_TO} != _PREDICATE:
        problems.append("has members that the predicate has not, or misses some")
    texts = {name: _text(predicate, name, problems) for name in _PREDICATE_TEXTS}
    certificates = predicate.get("certificates")
    if not isinstance(certificates, list) or not all(type(note) is str for note in certificates):
        problems.append("certificates is not an array of notes")
        certificates = []
    constitution = predicate.get("constitution")
    if not isinstance(constitution, dict) or constitution.keys() != {"platform", "tenant"}:
        problems.append("constitution is not of platform and tenant")
        constitution = {"platform": "", "tenant": ""}
    entries = predicate.get("entries")
    if not isinstance(entries, list):
        problems.append("entries is not an array")
        entries = []
    moved_to = predicate.get(_MOVED_TO, [])
    if not isinstance(moved_to, list) or not all(type(text) is str for text in moved_to):
        problems.append("moved_to is not an array of definitions")
        moved_to = []
    elif not moved_to and _MOVED_TO in predicate:
        problems.append("moved_to has nothing in it, and could be left out")
    bundle = Bundle(
        tenant=texts["tenant"],
        run=texts["run"],
        installation=texts["installation"],
        root_key=texts["root_key"],
        certificates=certificates,
        checkpoint=texts["checkpoint"],
        definition=_bytes(texts["definition"]),
        constitution_platform=_bytes(_text(constitution, "platform", problems)),
        constitution_tenant=_bytes(_text(constitution, "tenant", problems)),
        entries=[_entry(part) for part in entries],
        moved_to=tuple(_bytes(text) for text in moved_to),
        subjects=_subjects(value.get("subject"), problems),
    )
    return bundle, problems


def _predicate(bundle: Bundle) -> dict[str, Any]:
    moved_to = [text.decode() for text in bundle.moved_to]
    return {
        **({_MOVED_TO: moved_to} if moved_to else {}),
        "tenant": bundle.tenant,
        "run": bundle.run,
        "installation": bundle.installation,
        "root_key": bundle.root_key,
        "certificates": list(bundle.certificates),
        "checkpoint": bundle.checkpoint,
        "definition": bundle.definition.decode(),
        "constitution": {
            "platform": bundle.constitution_platform.decode(),
            "tenant": bundle.constitution_tenant.decode(),
        },
        "entries": [
            {
                "entry": part.entry.decode(),
                "proof": [step.hex() for step in part.proof],
                "items": [
                    {
                        "position": item.position,
                        "item": item.item.decode(),
                        "proof": [step.hex() for step in item.proof],
                    }
                    for item in part.items
                ],
            }
            for part in bundle.entries
        ],
    }


def _text(value: Mapping[str, Any], name: str, problems: list[str]) -> str:
    text = value.get(name)
    if isinstance(text, str):
        return text
    problems.append(f"{name} is not a text")
    return ""


def _bytes(text: str) -> bytes:
    # What was read leniently may hold half of a surrogate pair; it must not stop the verifier.
    return text.encode(errors="replace")


def _subjects(value: Any, problems: list[str]) -> list[tuple[str, str]]:
    match value:
        case [
            {"name": str(run), "digest": {"sha256": str(run_hash), **no1}, **no2},
            {"name": str(workflow), "digest": {"sha256": str(definition_hash), **no3}, **no4},
        ] if not (no1 or no2 or no3 or no4):
            return [(run, run_hash), (workflow, definition_hash)]
    problems.append("subject is not a run and a workflow with their SHA-256")
    return []


def _entry(value: Any) -> EntryPart:
    match value:
        case {"entry": str(entry), "proof": list(steps), "items": list(items), **more} if not more:
            proof = _proof(steps)
            parts = [_item(item) for item in items]
            good = [part for part in parts if part is not None]
            broken = ""
            if proof is None:
                broken = "its proof is not an array of hashes"
            elif len(good) != len(parts):
                broken = f"its item {parts.index(None)} is not in the form of an item"
            return EntryPart(entry=_bytes(entry), proof=proof or (), items=good, broken=broken)
        case {"entry": str(entry)}:
            text = _bytes(entry)
            return EntryPart(entry=text, proof=(), broken="is not in the form of an entry")
    return EntryPart(entry=b"", proof=(), broken="is not in the form of an entry")


def _item(value: Any) -> ItemPart | None:
    match value:
        case {"position": int(position), "item": str(item), "proof": list(steps), **more}:
            proof = _proof(steps)
            if proof is not None and not more and type(position) is int:
                return ItemPart(position=position, item=_bytes(item), proof=proof)
    return None


def _proof(steps: list[Any]) -> list[bytes] | None:
    try:
        if all(_HASH.fullmatch(step) for step in steps):
            return [bytes.fromhex(step) for step in steps]
    except TypeError:
        # A step that is not even a text.
        return None
    return None
