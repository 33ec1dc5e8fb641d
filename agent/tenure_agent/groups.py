"""The process groups that run, on disk, so that none outlives a killed agent for long.

A command and a worker process lead a group of their own. An agent that is killed cannot end them,
so its next life does, before it takes its first lease. The file in the spool's directory::

    groups  = "TNRGRP1\\n" boot id (36 bytes) record*
    record  = pid of the leader (8 bytes) its start in clock ticks since boot (8 bytes), or zeros

A record is written over when its group has ended, so that the file stays as large as the most
groups that ran at one time. It is never synced: it has to survive the agent, not the host.

A pid is used again one day, so a group is ended only if its leader is still the process that
started at that tick, since the same boot. Two kinds of groups are therefore left alone: those
whose leader has ended meanwhile, and those that were started so shortly before the kill, a
millisecond or so, that they were not recorded yet. Systems that do not show this in /proc have
nothing recorded and nothing ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
from pathlib import Path

import structlog

from tenure_agent.spool import SpoolError

MAGIC = b"TNRGRP1\n"
RECORD = struct.Struct("<qQ")
EMPTY = RECORD.pack(0, 0)

log: structlog.stdlib.BoundLogger = structlog.get_logger("groups")


class Groups:
    """The groups of this process. One process at a time: the spool's lock sees to it."""

    def __init__(self, directory: Path) -> None:
        """Ends what an earlier life left in a directory, and begins a new file.

        Raises SpoolError.
        """
        self._path = directory / "groups"
        self._places: dict[int, int] = {}
        self._free: list[int] = []
        self._fd = -1
        self._header = MAGIC + _boot_id()
        if self._header == MAGIC:
            return
        try:
            _end(self._read())
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            self._fd = os.open(self._path, flags, 0o600)
            os.write(self._fd, self._header)
        except OSError as error:
            raise SpoolError(f"spool {self._path}: {error.strerror or error}") from error

    def add(self, pid: int) -> None:
        """Notes the group that a process leads."""
        start_ticks = _start_ticks(pid)
        if self._fd < 0 or start_ticks is None:
            return
        place = self._free.pop() if self._free else len(self._places)
        self._places[pid] = place
        self._write(place, RECORD.pack(pid, start_ticks))

    def discard(self, pid: int) -> None:
        """Forgets a group that has ended. An unknown one is passed over."""
        place = self._places.pop(pid, None)
        if place is not None:
            self._free.append(place)
            self._write(place, EMPTY)

    def close(self) -> None:
        """Removes the file, or leaves it to the next life when a group still runs."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        if not self._places:
            self._path.unlink(missing_ok=True)

    def _write(self, place: int, record: bytes) -> None:
        if self._fd < 0:
            return
        try:
            os.pwrite(self._fd, record, len(self._header) + place * RECORD.size)
        except OSError as error:
            # A full disk must not keep the command from running.
            log.warning("process group is not recorded", reason=error.strerror)

    def _read(self) -> list[tuple[int, int]]:
        """The records of an earlier life, none if the host has been started since."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return []
        if not data.startswith(self._header):
            return []
        body = data[len(self._header) :]
        body = body[: len(body) - len(body) % RECORD.size]
        return [(pid, ticks) for pid, ticks in RECORD.iter_unpack(body) if pid > 0]


def _end(left: list[tuple[int, int]]) -> None:
    """Kills the groups whose leaders are still who they were."""
    for pid, start_ticks in left:
        if _start_ticks(pid, leading=True) != start_ticks:
            continue
        log.warning("process group of an earlier agent process is killed", group=pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _start_ticks(pid: int, *, leading: bool = False) -> int | None:
    """When a process started, None when that is not known or it leads no session, if it must."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The second field is the program's name in brackets, which may hold anything.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if leading and not int(fields[2]) == int(fields[3]) == pid:
        return None
    return int(fields[19])


def _boot_id() -> bytes:
    """Names the host's present boot, empty when the system does not say."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    return b""
