"""Verifier keys, signed notes, checkpoints: text forms of C2SP (signed-note, tlog-checkpoint).

Only Ed25519, which is algorithm 1. Every form is read strictly: what could be written another way
is refused.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tenure_evidence.tree import HASH_BYTES, SIZE_MAX

ED25519 = b"\x01"
KEY_HASH_BYTES = 4
SIGNATURE_BYTES = 64
NOTE_CHARACTERS_MAX = 16_384
NOTE_SIGNATURES_MAX = 16

_NAME = re.compile(r"[!-*,-~]{1,255}")
_VERIFIER = re.compile(r"([^+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)")
_SIGNATURE_LINE = re.compile(r"— (\S+) ([A-Za-z0-9+/=]+)")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")


class NoteInvalid(ValueError):  # noqa: N818 - a finding about text, not an error of the program
    """A key or a note cannot be read, or nobody who counts has signed it."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key and the name it signs under."""

    name: str
    public: bytes

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Reads ``<name>+<hash>+<base64>``. Raises NoteInvalid."""
        match = _VERIFIER.fullmatch(text)
        if match is None or not _NAME.fullmatch(match[1]):
            raise NoteInvalid("is not a verifier key: <name>+<8 hex digits>+<base64>")
        material = strict_base64(match[3])
        if material is None or len(material) != 33 or material[:1] != ED25519:
            raise NoteInvalid("is not the key of an Ed25519 verifier")
        key = cls(match[1], material[1:])
        if key.hash.hex() != match[2]:
            raise NoteInvalid(f"has hash {match[2]}, but its key gives {key.hash.hex()}")
        return key

    @property
    def hash(self) -> bytes:
        """The key's hash, four bytes: tells the keys of one name apart."""
        material = self.name.encode() + b"\n" + ED25519 + self.public
        return hashlib.sha256(material).digest()[:KEY_HASH_BYTES]

    @property
    def text(self) -> str:
        """The key as a C2SP verifier key."""
        return f"{self.name}+{self.hash.hex()}+{b64encode(ED25519 + self.public).decode()}"

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether this key made the signature."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


class Signer(Protocol):
    """A private key, wherever it lies."""

    @property
    def verifier(self) -> VerifierKey:
        """The public side."""

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature, 64 bytes."""


@dataclass(frozen=True, slots=True)
class Note:
    """A signed note as it was read; nothing is verified yet."""

    #: With the newline at its end, as it was signed.
    text: str
    #: Name, key hash and signature of each line.
    signatures: tuple[tuple[str, bytes, bytes], ...]

    @classmethod
    def parse(cls, note: str) -> Note:
        """Reads a note. Raises NoteInvalid."""
        if len(note) > NOTE_CHARACTERS_MAX:
            raise NoteInvalid(f"has more than {NOTE_CHARACTERS_MAX} characters")
        head, gap, tail = note.rpartition("\n\n")
        if not gap or not tail.endswith("\n"):
            raise NoteInvalid("is not a signed note: text, empty line, signatures")
        if not head or any(ord(c) < 32 and c != "\n" for c in head):
            raise NoteInvalid("has no text, or control characters in it")
        lines = tail[:-1].split("\n")
        if len(lines) > NOTE_SIGNATURES_MAX:
            raise NoteInvalid(f"has more than {NOTE_SIGNATURES_MAX} signatures")
        return cls(head + "\n", tuple(_signature(line) for line in lines))

    def opened(self, keys: Iterable[VerifierKey]) -> VerifierKey:
        """Gives the key that signed this note, the first of `keys` that did.

        Raises NoteInvalid when none did. A wrong signature of a known key is an error, whatever
        stands beside it; signatures of other keys do not matter, as C2SP asks.
        """
        message = self.text.encode()
        signer: VerifierKey | None = None
        for key in keys:
            for name, key_hash, signature in self.signatures:
                if name != key.name or key_hash != key.hash:
                    continue
                if not key.verifies(signature, message):
                    raise NoteInvalid(f"signature of key {key.hash.hex()} does not verify")
                signer = signer or key
        if signer is None:
            hashes = ", ".join(key_hash.hex() for _, key_hash, _ in self.signatures)
            raise NoteInvalid(f"is signed by {hashes}, not by a key that is trusted")
        return signer


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of a log: so many entries, with this root."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"

    def is_of(self, installation: str) -> bool:
        """Whether it is of this installation's own log or of one of its tenants'."""
        return self.origin == origin_of(installation, self.tenant)

    @property
    def tenant(self) -> str:
        """The tenant whose log it is of; empty for the installation's own."""
        return "/".join(self.origin.split("/")[2:])

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Reads the text of a checkpoint. Raises NoteInvalid."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] or not lines[0]:
            raise NoteInvalid("is not a checkpoint: origin, size, root")
        size = decimal(lines[1])
        tree_root = strict_base64(lines[2])
        if size is None or size > SIZE_MAX:
            raise NoteInvalid(f"has no size: {lines[1][:20]!r}")
        if tree_root is None or len(tree_root) != HASH_BYTES:
            raise NoteInvalid("has no root of 32 bytes")
        return cls(origin=lines[0], size=size, root=tree_root)


def sign_note(signer: Signer, text: str) -> str:
    """Makes a signed note of a text, which must end with a newline."""
    if not text.endswith("\n"):
        raise ValueError("the text of a note ends with a newline")
    signed = signer.verifier.hash + signer.sign(text.encode())
    return f"{text}\n— {signer.verifier.name} {b64encode(signed).decode()}\n"


def installation_name(installation: str) -> str:
    """The name of an installation's keys, and the origin of its own log."""
    return f"tenure.v1/{installation}"


def origin_of(installation: str, tenant: str) -> str:
    """The origin of a log; of the installation's own log when `tenant` is empty."""
    name = installation_name(installation)
    return f"{name}/{tenant}" if tenant else name


def strict_base64(text: str) -> bytes | None:
    """Decodes standard base64 in its one spelling; None for anything else.

    The decoders of all languages overlook bits at the end; a changed character must not.
    """
    try:
        data = b64decode(text, validate=True)
    except ValueError:
        return None
    return data if b64encode(data).decode() == text else None


def decimal(text: str) -> int | None:
    """Reads a whole number in its one spelling; None for anything else."""
    return int(text) if _NUMBER.fullmatch(text) else None


def _signature(line: str) -> tuple[str, bytes, bytes]:
    match = _SIGNATURE_LINE.fullmatch(line)
    signed = strict_base64(match[2]) if match else None
    if match is None or signed is None or len(signed) != KEY_HASH_BYTES + SIGNATURE_BYTES:
        raise NoteInvalid("has a line that is no Ed25519 signature")
    return match[1], signed[:KEY_HASH_BYTES], signed[KEY_HASH_BYTES:]
