"""Results on disk until they are acknowledged.

A directory of segment files, written at their end only::

    segment  = "TNRSPL1\\n" record*
    record   = length (4 bytes) crc32 (4 bytes) serialized Result

A segment is deleted once every result in it is acknowledged; the one that is written to is
emptied instead. Acknowledgements themselves are not written: after a restart a result may be sent
a second time, which the coordinator answers with ALREADY_APPLIED.

What is promised: a result that was appended survives the kill of the agent at any moment. It
survives the loss of power once `sync` has run after it. A tail that was torn off by a crash is
passed over; it can only be a result that was never appended to its end.

The files hold outputs and lease tokens, so nobody but the agent's user may read them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from tenure.v1 import agents_pb2
from tenure_agent.holding import Key

MAGIC = b"TNRSPL1\n"
HEADER = struct.Struct("<II")
SEGMENT_BYTES_MAX = 8 * 1024 * 1024
RECORD_BYTES_MAX = 64 * 1024 * 1024
#: An acknowledged segment larger than this is emptied at once, a smaller one when there is time.
TRUNCATE_BYTES = 256 * 1024


class SpoolError(Exception):
    """The spool's directory cannot be used."""


class _Segment:
    """One file, and how many of its results are still to be acknowledged."""

    __slots__ = ("live", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.live = 0


class Spool:
    """The results that were not acknowledged yet, on disk. One process at a time."""

    def __init__(self, directory: Path) -> None:
        """Opens the directory and reads what is left in it. Raises SpoolError."""
        self._directory = directory
        self._where: dict[Key, _Segment] = {}
        self._fd = -1
        self._size = 0
        self._number = 0
        #: What an earlier process left, oldest first.
        self.left: list[agents_pb2.Result] = []
        #: Bytes that could not be read: torn by a crash, or damaged.
        self.torn_bytes = 0
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = self._lock()
            for path in sorted(directory.glob("*.spool")):
                self._read(path)
            self._active = self._begin()
        except OSError as error:
            raise SpoolError(f"spool {directory}: {error.strerror or error}") from error

    def __len__(self) -> int:
        """How many results wait for their acknowledgement."""
        return len(self._where)

    def append(self, results: Sequence[agents_pb2.Result]) -> None:
        """Writes results in one go. Raises OSError, and then none of them was written."""
        parts: list[bytes] = []
        for result in results:
            data = result.SerializeToString()
            parts.append(HEADER.pack(len(data), zlib.crc32(data)))
            parts.append(data)
        if self._size >= SEGMENT_BYTES_MAX:
            self._rotate()
        self._write(b"".join(parts))
        segment = self._active
        for result in results:
            lease = result.lease
            key = (lease.run_id, lease.task_key, lease.term)
            if key not in self._where:
                self._where[key] = segment
                segment.live += 1

    def acknowledge(self, keys: Iterable[Key]) -> None:
        """Gives up results. Unknown ones are passed over."""
        for key in keys:
            segment = self._where.pop(key, None)
            if segment is None:
                continue
            segment.live -= 1
            if segment.live > 0:
                continue
            if segment is not self._active:
                self._delete(segment)
            elif self._size >= TRUNCATE_BYTES:
                self._empty()

    def compact(self) -> None:
        """Empties the segment that is written to, if nothing in it is wanted any more."""
        if self._active.live == 0 and self._size > len(MAGIC):
            self._empty()

    def sync(self) -> None:
        """Waits until what was appended is on the disk. May run in a thread beside `append`."""
        fd = os.dup(self._fd)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Closes the files and lets another process have the directory."""
        if self._fd < 0:
            return
        self.compact()
        os.close(self._fd)
        self._fd = -1
        if self._active.live == 0:
            self._delete(self._active)
        os.close(self._lock_fd)

    def _lock(self) -> int:
        fd = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            reason = f"spool {self._directory}: is in use by another agent process"
            raise SpoolError(reason) from error
        return fd

    def _read(self, path: Path) -> None:
        """Reads one segment up to its end or to the first record that is not whole."""
        data = path.read_bytes()
        segment = _Segment(path)
        self._number = max(self._number, _number_of(path))
        at = len(MAGIC) if data.startswith(MAGIC) else len(data) + 1
        while at + HEADER.size <= len(data):
            length, checksum = HEADER.unpack_from(data, at)
            body = data[at + HEADER.size : at + HEADER.size + length]
            if length > RECORD_BYTES_MAX or len(body) < length or zlib.crc32(body) != checksum:
                break
            self._found(agents_pb2.Result.FromString(body), segment)
            at += HEADER.size + length
        self.torn_bytes += len(data) - at if at <= len(data) else len(data)
        if segment.live == 0:
            self._delete(segment)

    def _found(self, result: agents_pb2.Result, segment: _Segment) -> None:
        key = (result.lease.run_id, result.lease.task_key, result.lease.term)
        if key in self._where:
            return
        self._where[key] = segment
        segment.live += 1
        self.left.append(result)

    def _begin(self) -> _Segment:
        """Makes the next segment. A file with a torn tail is never written to again."""
        self._number += 1
        path = self._directory / f"{self._number:010d}.spool"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600)
        try:
            os.write(fd, MAGIC)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        self._fd, self._size = fd, len(MAGIC)
        return _Segment(path)

    def _rotate(self) -> None:
        full, fd = self._active, self._fd
        self._active = self._begin()
        os.close(fd)
        if full.live == 0:
            self._delete(full)

    def _write(self, data: bytes) -> None:
        """Writes all of it, or takes back what was written and raises OSError."""
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:] if written else data)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        self._size += written

    def _empty(self) -> None:
        os.ftruncate(self._fd, len(MAGIC))
        self._size = len(MAGIC)

    def _delete(self, segment: _Segment) -> None:
        segment.path.unlink(missing_ok=True)


def _number_of(path: Path) -> int:
    return int(path.stem) if path.stem.isdecimal() else 0
