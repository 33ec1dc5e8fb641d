"""Handlers of the release: machines are folders here, and a release is an archive."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

from tenure_agent import NonRetryable, TaskContext


def pack_release(ctx: TaskContext, given: Any) -> dict[str, Any]:
    """Packs a version. The same version is the same archive, to the byte."""
    text = f"version = {given['version']}\n".encode()
    archive = Path(given["folder"]) / f"release-{given['version']}.tar"
    with tarfile.open(archive, "w") as packed:
        entry = tarfile.TarInfo("VERSION")
        entry.size = len(text)
        packed.addfile(entry, io.BytesIO(text))
    return {"archive": str(archive), "sha256": hashlib.sha256(archive.read_bytes()).hexdigest()}


def put_release(ctx: TaskContext, given: Any) -> dict[str, Any]:
    """Puts an archive onto machines; what was there is kept beside it."""
    content = Path(given["archive"]).read_bytes()
    if hashlib.sha256(content).hexdigest() != given["sha256"]:
        raise NonRetryable("ARCHIVE_CHANGED", "the archive is not the one that was packed")
    with tarfile.open(fileobj=io.BytesIO(content)) as packed:
        member = packed.extractfile("VERSION")
        assert member is not None
        version = member.read()
    for number, machine in enumerate(given["machines"], start=1):
        place = Path(given["folder"]) / machine
        place.mkdir(exist_ok=True)
        present = place / "VERSION"
        if present.exists() and present.read_bytes() != version:
            present.replace(place / "VERSION.before")
        present.write_bytes(version)
        ctx.progress(number / len(given["machines"]), machine)
    return {"machines": given["machines"]}


def check_machines(ctx: TaskContext, given: Any) -> None:
    """Fails when a machine does not run the version."""
    for machine in given["machines"]:
        present = (Path(given["folder"]) / machine / "VERSION").read_text()
        if present != f"version = {given['version']}\n":
            raise NonRetryable("UNWELL", f"machine {machine} runs {present.strip()}")


def take_release_back(ctx: TaskContext, given: Any) -> list[str]:
    """Gives every machine back what it had, and names those that it touched."""
    touched = []
    for before in sorted(Path(given["folder"]).glob("*/VERSION.before")):
        before.replace(before.with_name("VERSION"))
        touched.append(before.parent.name)
    return touched
