"""The keys of an installation: a root, and for each later key the word of the one before it.

Whoever trusts a key trusts those that follow it, not those before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tenure_evidence.notes import (
    Note,
    NoteInvalid,
    Signer,
    VerifierKey,
    decimal,
    installation_name,
    sign_note,
)

CERTIFICATES_MAX = 1000


class ChainInvalid(ValueError):  # noqa: N818 - a finding about keys, not an error of the program
    """A chain does not hold. `number` is the key at which it breaks, from 1."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"key {number} {reason}")
        self.number = number
        self.reason = reason


class KeyUnknown(LookupError):  # noqa: N818 - likewise
    """A signature names a key that is not trusted."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Keys that vouch for each other, the oldest first; never empty."""

    installation: str
    keys: tuple[VerifierKey, ...]

    @classmethod
    def read(cls, root: str, certificates: Sequence[str]) -> Chain:
        """Verifies a root's verifier key and the certificates in order.

        Raises ChainInvalid naming the first key that is wrong.
        """
        try:
            first = VerifierKey.parse(root)
        except NoteInvalid as error:
            raise ChainInvalid(1, str(error)) from None
        prefix, installation = first.name[:10], first.name[10:]
        if prefix != installation_name("") or not installation or "/" in installation:
            raise ChainInvalid(1, f"is named {first.name!r}, not tenure.v1/<installation>")
        if len(certificates) > CERTIFICATES_MAX:
            raise ChainInvalid(CERTIFICATES_MAX + 2, f"is one of {len(certificates) + 1}")
        keys = [first]
        for number, certificate in enumerate(certificates, start=2):
            key = _certified(certificate, keys[-1], number)
            if key in keys:
                raise ChainInvalid(number, "stands in the chain already")
            keys.append(key)
        return cls(installation, tuple(keys))

    @property
    def newest(self) -> VerifierKey:
        """The key that signs now."""
        return self.keys[-1]

    def trusting(self, key: VerifierKey) -> Chain:
        """The part of the chain that follows from a trusted key. Raises KeyUnknown."""
        if key not in self.keys:
            raise KeyUnknown(f"key {key.hash.hex()} of {key.name} is not in the chain")
        return Chain(self.installation, self.keys[self.keys.index(key) :])

    def key_for(self, key_hash: bytes) -> VerifierKey:
        """The key with that hash. Raises KeyUnknown."""
        for key in reversed(self.keys):
            if key.hash == key_hash:
                return key
        raise KeyUnknown(f"key {key_hash.hex()} is not one that is trusted")

    def open(self, note: str) -> str:
        """Gives the text of a note that a key of this chain signed. Raises NoteInvalid."""
        parsed = Note.parse(note)
        parsed.opened(reversed(self.keys))
        return parsed.text


def certificate(signer: Signer, installation: str, number: int, key: VerifierKey, at: int) -> str:
    """Makes the certificate of key `number` by the key before it; `at` in microseconds."""
    text = f"{installation_name(installation)}/key\n{number}\n{key.text}\n{at}\n"
    return sign_note(signer, text)


def _certified(note: str, signer: VerifierKey, number: int) -> VerifierKey:
    try:
        parsed = Note.parse(note)
        parsed.opened([signer])
        lines = parsed.text.split("\n")
        if len(lines) != 5 or lines[0] != f"{signer.name}/key":
            raise NoteInvalid("has a certificate that is not one of this installation")
        if lines[1] != str(number):
            raise NoteInvalid(f"has the certificate of key {lines[1][:20]!r}")
        if decimal(lines[3]) is None:
            raise NoteInvalid("has a certificate without a time")
        key = VerifierKey.parse(lines[2])
    except NoteInvalid as error:
        raise ChainInvalid(number, str(error)) from None
    if key.name != signer.name:
        raise ChainInvalid(number, f"is named {key.name!r}, not {signer.name!r}")
    return key


def parse_all(texts: Iterable[str]) -> list[VerifierKey]:
    """Reads verifier keys, one a line; empty lines and those that begin with # do not count.

    Raises NoteInvalid.
    """
    lines = (line.strip() for line in texts)
    return [VerifierKey.parse(line) for line in lines if line and not line.startswith("#")]
