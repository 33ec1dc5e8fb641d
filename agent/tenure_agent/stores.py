"""Where payloads lie that are too large to travel with leases and results.

A store is a folder, or a bucket of S3, Google Cloud Storage, Azure or what speaks like one of
them. What is in it is named by what it is: ``TENANT/sha256/9f/9f86…``. So putting the same twice
is the same as once, nothing ever changes under its name, and no tenant's agents come to another's.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

SCHEMES = ("file", "s3", "gs", "az", "memory")


class StoreError(Exception):
    """The store cannot do it; the message says why."""


class PayloadStore(Protocol):
    """What keeps payloads."""

    async def put(self, tenant_id: str, digest: str, data: bytes) -> str:
        """Keeps bytes with this SHA-256 digest (hexadecimal) for good, and gives their URI.

        Raises StoreError.
        """

    async def get(self, tenant_id: str, digest: str) -> bytes:
        """Gives the bytes that were put. Raises StoreError."""

    def uri(self, tenant_id: str, digest: str) -> str:
        """Names bytes, whether they are there or not."""


def path_of(tenant_id: str, digest: str) -> str:
    """Where bytes lie in a store."""
    return f"{tenant_id}/sha256/{digest[:2]}/{digest}"


def digest_of(data: bytes) -> str:
    """The digest that names bytes."""
    return hashlib.sha256(data).hexdigest()


def open_store(url: str) -> PayloadStore:
    """Opens a store: ``file:///var/lib/tenure/payloads``, ``s3://bucket/prefix``, …

    Credentials come from the environment, as is usual for each kind. Raises StoreError.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        raise StoreError(f"{url!r} begins with none of {', '.join(f'{it}://' for it in SCHEMES)}")
    # Only agents with a store load it.
    from obstore.store import LocalStore, from_url

    if parts.scheme != "file":
        try:
            return ObjectStore(from_url(url), url)
        except Exception as error:
            raise StoreError(f"{url!r} cannot be opened: {_words(error)}") from error
    folder = Path(unquote(parts.path))
    if parts.netloc or not folder.is_absolute():
        raise StoreError(f"{url!r} must name a folder, as in file:///var/lib/tenure/payloads")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return ObjectStore(LocalStore(folder), url, folder)
    except (OSError, ValueError) as error:
        raise StoreError(f"{url!r} cannot be opened: {_words(error)}") from error


class ObjectStore:
    """A store that obstore speaks to."""

    def __init__(self, store: Any, url: str, folder: Path | None = None) -> None:
        """`folder` is where it lies, if it lies on this host: then what is put is synced."""
        self._store = store
        self._url = url.rstrip("/")
        self._folder = folder

    def uri(self, tenant_id: str, digest: str) -> str:
        """Names bytes, whether they are there or not."""
        return f"{self._url}/{path_of(tenant_id, digest)}"

    async def put(self, tenant_id: str, digest: str, data: bytes) -> str:
        """Keeps bytes, and gives their URI. Raises StoreError."""
        path = path_of(tenant_id, digest)
        try:
            await self._store.put_async(path, data)
            if self._folder is not None:
                await asyncio.to_thread(_sync, self._folder, path)
        except Exception as error:
            raise StoreError(f"{self._url}/{path} cannot be written: {_words(error)}") from error
        return f"{self._url}/{path}"

    async def get(self, tenant_id: str, digest: str) -> bytes:
        """Gives bytes. Raises StoreError."""
        path = path_of(tenant_id, digest)
        try:
            found = await self._store.get_async(path)
            return bytes(await found.bytes_async())
        except FileNotFoundError as error:
            raise StoreError(f"{self._url}/{path} is not there") from error
        except Exception as error:
            raise StoreError(f"{self._url}/{path} cannot be read: {_words(error)}") from error


def _sync(folder: Path, path: str) -> None:
    """Has a file and the folders above it survive the loss of power."""
    place = folder / path
    while place != folder.parent:
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        place = place.parent


def _words(error: Exception) -> str:
    """The first line: the rest is the library's own."""
    return (str(error).strip().split("\n", 1)[0] or type(error).__name__)[:300]
