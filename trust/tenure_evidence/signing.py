"""Private keys and the file they lie in. Only those who write evidence need this module.

The file is JSON: the installation's UUID, and all its keys, the oldest first, each with its
verifier key, its certificate (empty for the root) and, for the newest alone, its private part.
A key that has a successor can sign nothing any more, because its private part is gone.
"""

from __future__ import annotations

import os
import stat
import uuid
from base64 import b64encode
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tenure_evidence import keys
from tenure_evidence.canonical import NotCanonical, canonical, read
from tenure_evidence.notes import VerifierKey, installation_name, strict_base64

FILE_BYTES_MAX = 4 << 20


class KeyFileInvalid(ValueError):  # noqa: N818 - says what the operator has to mend
    """A key file cannot be used, and why."""


class SigningKey:
    """One private key."""

    __slots__ = ("_private", "verifier")

    def __init__(self, name: str, private: bytes) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(private)
        self.verifier = VerifierKey(name, self._private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls, installation: str) -> SigningKey:
        """Draws a new key."""
        private = Ed25519PrivateKey.generate().private_bytes_raw()
        return cls(installation_name(installation), private)

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature, 64 bytes."""
        return self._private.sign(message)

    def secret(self) -> str:
        """The private part as it is kept, base64."""
        return b64encode(self._private.private_bytes_raw()).decode()

    def __repr__(self) -> str:
        return f"SigningKey({self.verifier.text!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeys:
    """The keys of an installation and the file they are kept in."""

    path: Path
    installation: str
    #: Verifier key of the root.
    root_key: str
    certificates: tuple[str, ...]
    #: Signs now.
    newest: SigningKey

    @classmethod
    def create(cls, path: Path, installation: str | None = None) -> SigningKeys:
        """Draws a root key and writes the file. Raises FileExistsError when there is one.

        Of two who create at the same time one succeeds; nobody ever sees half a file.
        """
        installation = installation or str(uuid.uuid4())
        root = SigningKey.generate(installation)
        made = cls(
            path=path,
            installation=installation,
            root_key=root.verifier.text,
            certificates=(),
            newest=root,
        )
        temporary = _written_beside(path, made.as_bytes())
        try:
            # Unlike a rename, a link does not replace what is already there.
            os.link(temporary, path)
        finally:
            temporary.unlink()
        _sync_folder(path.parent)
        return made

    @classmethod
    def load(cls, path: Path) -> SigningKeys:
        """Reads the file. Raises FileNotFoundError, or KeyFileInvalid saying what is wrong."""
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
                reason = f"may be read by others (mode {mode & 0o777:03o}); chmod 600 {path}"
                raise KeyFileInvalid(reason)
            data = file.read(FILE_BYTES_MAX)
        try:
            return cls._parse(path, read(data.rstrip(b"\n")))
        except (NotCanonical, KeyError, TypeError, AttributeError) as error:
            raise KeyFileInvalid(f"is not a key file: {error}") from None
        except keys.ChainInvalid as error:
            raise KeyFileInvalid(f"has keys that do not follow from each other: {error}") from None

    @classmethod
    def _parse(cls, path: Path, value: dict[str, Any]) -> SigningKeys:
        installation, rows = value["installation"], value["keys"]
        if not rows:
            raise KeyFileInvalid("has no keys")
        certificates = tuple(row["certificate"] for row in rows[1:])
        chain = keys.Chain.read(rows[0]["public"], certificates)
        private = strict_base64(rows[-1]["private"])
        if chain.installation != installation or private is None or len(private) != 32:
            raise KeyFileInvalid("has keys of another installation, or no private key")
        newest = SigningKey(installation_name(installation), private)
        if newest.verifier != chain.newest:
            raise KeyFileInvalid("has a private key that is not that of its newest public key")
        return cls(
            path=path,
            installation=installation,
            root_key=rows[0]["public"],
            certificates=certificates,
            newest=newest,
        )

    def rotate(self, now_us: int) -> SigningKeys:
        """Draws the next key, has it certified by the newest one, and forgets how that one signs.

        The file is replaced as a whole. `now_us` is in microseconds since the epoch.
        """
        successor = SigningKey.generate(self.installation)
        number = len(self.certificates) + 2
        note = keys.certificate(self.newest, self.installation, number, successor.verifier, now_us)
        rotated = replace(self, certificates=(*self.certificates, note), newest=successor)
        temporary = _written_beside(self.path, rotated.as_bytes())
        try:
            os.replace(temporary, self.path)
        except BaseException:
            temporary.unlink()
            raise
        _sync_folder(self.path.parent)
        return rotated

    def chain(self) -> keys.Chain:
        """The public side."""
        return keys.Chain.read(self.root_key, self.certificates)

    def as_bytes(self) -> bytes:
        """The content of the file."""
        public = [key.text for key in self.chain().keys]
        rows: list[dict[str, str]] = [
            {"public": text, "certificate": note}
            for text, note in zip(public, ("", *self.certificates), strict=True)
        ]
        rows[-1]["private"] = self.newest.secret()
        value = {"version": 1, "installation": self.installation, "keys": rows}
        return canonical(value) + b"\n"


def _written_beside(path: Path, data: bytes) -> Path:
    """Writes a new file in the same folder, readable by its owner only, down to the disk."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink()
        raise
    return temporary


def _sync_folder(folder: Path) -> None:
    # A new name is on the disk only once its folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
