"""The disk under a SQLite file: small where root may mount one, and slow where a compiler is."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

#: The log is grown to 16 MiB at once; beside it there must be room for the work of a campaign.
_SIZE_MIB = 96
_BLOCK_BYTES = 1 << 16
_SLOW = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static void wait_a_while(void) {
  const char *path = getenv("TENURE_CHAOS_SLOW");
  FILE *file = path ? fopen(path, "r") : NULL;
  long micros = 0;
  if (file) { if (fscanf(file, "%ld", &micros) != 1) micros = 0; fclose(file); }
  if (micros > 0) usleep((useconds_t)micros);
}
int fsync(int fd) {
  static int (*real)(int);
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  wait_a_while();
  return real(fd);
}
int fdatasync(int fd) {
  static int (*real)(int);
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  wait_a_while();
  return real(fd);
}
"""


class Disk:
    """A folder for the store's files. What it cannot do here, `skipped` says and why."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "disk"
        self.folder.mkdir()
        self.skipped: list[str] = []
        self._pace = folder / "pace"
        self._filler = self.folder / "filler"
        #: What coordinators need in their environment.
        self.environment: dict[str, str] = {}
        self.bounded = self._mount()
        self.can_slow = self._compile(folder)

    def _mount(self) -> bool:
        if os.geteuid() != 0:
            self.skipped.append("a full and a read-only disk: only root may mount one")
            return False
        options = f"size={_SIZE_MIB}m"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            self.skipped.append(f"a full and a read-only disk: {done.stderr.strip()}")
        return done.returncode == 0

    def _compile(self, folder: Path) -> bool:
        compiler = shutil.which("cc")
        if compiler is None:
            self.skipped.append("slow fsync: there is no C compiler")
            return False
        source, library = folder / "slow.c", folder / "slow.so"
        source.write_text(_SLOW)
        done = subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            self.skipped.append(f"slow fsync: {done.stderr.strip().splitlines()[-1]}")
            return False
        self.slow(0.0)
        self.environment = {"LD_PRELOAD": str(library), "TENURE_CHAOS_SLOW": str(self._pace)}
        return True

    def fill(self) -> None:
        """Takes every byte that is left."""
        with self._filler.open("wb", buffering=0) as file:
            for size in (_BLOCK_BYTES, 512, 1):
                with contextlib.suppress(OSError):  # the disk is full, as it should be
                    while file.write(b"\0" * size):
                        pass

    def free(self) -> None:
        """Gives it back."""
        self._filler.unlink(missing_ok=True)

    def forbid_writing(self) -> None:
        """Makes the disk read-only; nobody may have a file open for writing."""
        self._remount("ro")

    def allow_writing(self) -> None:
        """Makes it writable again."""
        self._remount("rw")

    def slow(self, seconds: float) -> None:
        """Lets every fsync take so much longer."""
        self._pace.write_text(str(int(seconds * 1e6)))

    def close(self) -> None:
        """Takes the disk away, with all that is on it."""
        if self.bounded:
            subprocess.run(["umount", str(self.folder)], check=True)

    def _remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.folder)], check=True)
