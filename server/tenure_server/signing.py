"""The keys that a coordinator signs with: the file, and the chain that its store goes by.

The file has the private key and never leaves its owner's hands. The store keeps the public chain,
so that a coordinator that comes with another file is refused before it writes a single entry: its
evidence could not be verified with the key that people were given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from tenure_evidence import keys, mandate
from tenure_evidence.signing import KeyFileInvalid, SigningKeys
from tenure_server.core.evidence import INSTALLATION, Act, Draft
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store
from tenure_server.store.reads import Reads
from tenure_server.store.sqlite import path_of

#: What an SQLite store's key file is called when it is not named: beside the database.
FILE_SUFFIX = ".signing-key.json"

log = structlog.get_logger()


class SigningError(Exception):
    """The keys cannot be used. The message is one line for the operator."""


def default_file(store_url: str) -> Path:
    """Where the keys of an SQLite store lie. Raises StoreOpenError for a URL that is none."""
    path = path_of(store_url)
    return path.with_name(path.name + FILE_SUFFIX)


class Signing:
    """Signs for one coordinator, once `open` has found that its keys are those of the store."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: SigningKeys | None = None

    @property
    def keys(self) -> SigningKeys:
        """The keys. Raises LookupError before `open`."""
        if self._keys is None:
            raise LookupError("the signing keys are not open yet")
        return self._keys

    def sign(self, entry: bytes) -> tuple[bytes, bytes]:
        """Signs the entry of a grant, for agents: gives the key's hash and the signature."""
        newest = self.keys.newest
        return newest.verifier.hash, mandate.sign(newest, entry)

    def open(self, store: Store, now_us: Callable[[], int]) -> None:
        """Reads the file, makes it for a store that has no keys yet, and compares the two.

        To be called before anything else writes. Raises SigningError, StoreFailed.
        """
        with store.reading():
            stored = Reads(store).signing_keys()
        found = self._found(stored)
        chain = (found.root_key, *found.certificates)
        _check(stored, chain, self._path)
        if len(chain) > len(stored):
            newest = found.newest.verifier.hash.hex()
            act = Act(kind="key.sign", subject={"key": newest, "number": str(len(chain))})
            drafts = [Draft(act, INSTALLATION, now_us())]

            def add(acts: Acts) -> list[str]:
                return acts.add_signing_keys(chain, len(stored))

            # Of two coordinators that start at once, the other one may have been faster.
            _check(store.writer().act({}, add, drafts), chain, self._path)
            log.debug("signs with a new key", key=newest, file=str(self._path))
        self._keys = found

    def _found(self, stored: Sequence[str]) -> SigningKeys:
        try:
            return load(self._path)
        except FileNotFoundError:
            if stored:
                raise SigningError(
                    f"this store's evidence is signed by {_named(stored)}, whose file "
                    f"{self._path} is missing; restore it, or name it with --signing-key"
                ) from None
        try:
            return SigningKeys.create(self._path)
        except FileExistsError:
            return load(self._path)
        except OSError as error:
            raise SigningError(
                f"cannot make the signing key {self._path}: {error.strerror}"
            ) from None


def load(path: Path) -> SigningKeys:
    """Reads a key file. Raises FileNotFoundError, and SigningError for one that cannot be used."""
    try:
        return SigningKeys.load(path)
    except KeyFileInvalid as error:
        raise SigningError(f"the signing key {path} {error}") from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SigningError(f"cannot read the signing key {path}: {error.strerror}") from None


def rotate(path: Path, now_us: int) -> SigningKeys:
    """Draws the next key. Coordinators sign with it from their next start on.

    Raises SigningError.
    """
    try:
        return load(path).rotate(now_us)
    except FileNotFoundError:
        raise SigningError(f"there is no signing key {path}") from None
    except OSError as error:
        raise SigningError(f"cannot replace the signing key {path}: {error.strerror}") from None


def _check(stored: Sequence[str], chain: Sequence[str], path: Path) -> None:
    """Wants the file's chain to be the store's, or to go on where that ends."""
    if tuple(chain[: len(stored)]) == tuple(stored):
        return
    if tuple(stored[: len(chain)]) == tuple(chain):
        raise SigningError(
            f"the signing key {path} is older than the store: key {len(chain)} of {len(stored)}; "
            "every coordinator of a store needs the same, newest file"
        )
    raise SigningError(
        f"this store's evidence is signed by {_named(stored)}, not by "
        f"{_named(chain)}, which {path} has"
    )


def _named(chain: Sequence[str]) -> str:
    """The newest key of a stored chain, for people."""
    try:
        return keys.Chain.read(chain[0], chain[1:]).newest.text
    except keys.ChainInvalid as error:
        return f"keys that do not follow from each other ({error})"
