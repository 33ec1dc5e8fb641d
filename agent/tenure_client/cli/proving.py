"""What the command verifies by itself of the evidence it is given: keys, checkpoints, entries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import click

from tenure.v1 import evidence_pb2
from tenure_client.client import Client
from tenure_evidence import canonical, keys, notes, tree
from tenure_evidence.__main__ import key_from
from tenure_evidence.notes import Checkpoint, NoteInvalid, VerifierKey
from tenure_evidence.verify import verify

ROOT_KEY: Final = click.option(
    "--root-key",
    metavar="VKEY|FILE",
    help="The key you trust. Default: the root that comes with the evidence.",
)


class ProofError(Exception):
    """Something was shown that does not prove what it should. The message says what."""


def trusted(text: str | None) -> VerifierKey | None:
    """Reads --root-key. Raises click.UsageError."""
    if text is None:
        return None
    try:
        return VerifierKey.parse(key_from(text))
    except (NoteInvalid, UnicodeDecodeError) as error:
        raise click.UsageError(f"--root-key: {error}") from error
    except OSError as error:
        raise click.UsageError(f"--root-key: {text}: {(error.strerror or '').lower()}") from error


def chain_of(root: str, certificates: Sequence[str], key: VerifierKey | None) -> keys.Chain:
    """Verifies keys, and gives those that follow from the one that is trusted.

    Raises ProofError.
    """
    try:
        chain = keys.Chain.read(root, certificates)
        return chain if key is None else chain.trusting(key)
    except (keys.ChainInvalid, keys.KeyUnknown) as error:
        raise ProofError(f"the keys do not follow from the one that is trusted: {error}") from error


async def chain_from(client: Client, key: VerifierKey | None) -> keys.Chain:
    """Asks for the keys and verifies them. Raises ProofError, TenureError."""
    given = await client.evidence.signing_keys()
    return chain_of(given.root_key, given.certificates, key)


def checkpoint_of(note: str, chain: keys.Chain) -> Checkpoint:
    """Opens a checkpoint. Raises ProofError when no key of the chain has signed it."""
    try:
        checkpoint = Checkpoint.parse(chain.open(note))
    except NoteInvalid as error:
        raise ProofError(f"the checkpoint {error}") from error
    if not checkpoint.is_of(chain.installation):
        raise ProofError(f"the checkpoint is of another installation's log: {checkpoint.origin}")
    return checkpoint


def entry_of(
    answer: evidence_pb2.GetInclusionProofResponse,
    items: Sequence[bytes],
    checkpoint: Checkpoint,
    index: int,
) -> dict[str, Any]:
    """Verifies that an entry is in a log, and its items in the entry; gives what it says.

    Raises ProofError.
    """
    try:
        value = canonical.read(answer.entry.entry)
    except canonical.NotCanonical as error:
        raise ProofError(f"entry {index} {error}") from error
    if value.get("index") != index or value.get("log") != checkpoint.tenant:
        raise ProofError(f"entry {index} says that it is another one")
    leaf = tree.leaf_hash(answer.entry.entry)
    if not tree.verify_inclusion(index, checkpoint.size, leaf, list(answer.proof), checkpoint.root):
        raise ProofError(f"entry {index} is not in the log that was signed: its proof fails")
    leaves = [tree.leaf_hash(item) for item in items]
    shown = {"count": len(leaves), "root": tree.root(leaves).hex()} if leaves else None
    if value.get("items") != shown:
        raise ProofError(f"the items of entry {index} are not those it was written with")
    return value


def bundle_verdict(path: Path, chain: keys.Chain) -> tuple[bool, str]:
    """Verifies a bundle with a key that is known, and says what came of it."""
    made = verify(path.read_bytes(), chain.keys[0].text)
    if made.ok:
        return True, f"{made.events} events in {made.entries} entries"
    first = made.first_bad or made.findings[0]
    return False, first.sentence


def note_in(path: Path) -> str:
    """Reads a file with one signed note. Raises click.UsageError."""
    try:
        text = path.read_text(encoding="utf-8")
        notes.Note.parse(text)
    except OSError as error:
        raise click.UsageError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except (UnicodeDecodeError, NoteInvalid) as error:
        raise click.UsageError(f"{path}: {error}") from error
    return text
