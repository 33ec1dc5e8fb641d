"""A store that somebody changed while nobody looked: found by the audit and at the start."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.conftest import LiveCoordinator, serving
from tests.server.rpc.test_evidence import all_entries, ended_run, evidence, exported

from tenure.v1 import constitution_pb2, evidence_pb2, runs_pb2, tenants_pb2
from tenure_evidence import verify
from tenure_evidence.database import Database
from tenure_evidence.keys import Chain
from tenure_evidence.records import judge
from tenure_evidence.signing import SigningKeys
from tenure_server import app, config, signing
from tenure_server.audit import Finding, audit_store
from tenure_server.store.database import open_store


@dataclass(frozen=True, slots=True)
class Mutation:
    """A change of the file, and the entry that is to be named; None where none can be."""

    name: str
    sql: str
    values: tuple[Any, ...] = ()
    index: int | None = None


@pytest.fixture
async def house(tmp_path: Path) -> LiveCoordinator:
    """A coordinator on SQLite that has stopped again, and left a file."""
    async with serving(f"sqlite:///{tmp_path}/tenure.db", tmp_path) as live:
        for tenant in ("alpha", "beta"):
            await ended_run(live, tenant)
            calls = live.calls(f"{tenant}/submitter")
            await calls.runs.StartRun(runs_pb2.StartRunRequest(workflow="fan"))
            for caller in (f"{tenant}/viewer", "operator"):
                request = evidence_pb2.GetCheckpointRequest()
                await evidence(live, caller).GetCheckpoint(request)
    return live


def database(folder: Path) -> Path:
    """The file."""
    return folder / "tenure.db"


def change(file: Path, sql: str, *values: Any) -> None:
    """Changes the file behind everybody's back."""
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute(sql, values).rowcount > 0, sql
        connection.commit()


@asynccontextmanager
async def again(house: LiveCoordinator, folder: Path, **settings: Any) -> AsyncIterator[Any]:
    """The coordinator, started once more on its file."""
    server = app.Coordinator(
        config.Config(store=f"sqlite:///{folder}/tenure.db", listen="127.0.0.1:0", **settings)
    )
    await server.start()
    channel = grpc.aio.insecure_channel(server.address)
    try:
        yield LiveCoordinator(server, channel, house.secrets)
    finally:
        await channel.close()
        await server.stop()


def audited(folder: Path, chain: Chain) -> list[Finding]:
    """What the audit of a store finds."""
    store = open_store(f"sqlite:///{folder}/tenure.db", holder="audit", address="audit")
    try:
        return audit_store(store, chain)
    finally:
        store.close()


def forget_index(file: Path, name: str, sql: str) -> None:
    """Changes a table while an index of it is not there, as a disk does that lost some pages."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA writable_schema = on")
        where = "FROM sqlite_master WHERE name = ?"
        row = connection.execute(f"SELECT * {where}", (name,)).fetchone()
        connection.execute(f"DELETE {where}", (name,))
        connection.commit()
    change(file, sql)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA writable_schema = on")
        connection.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", row)
        connection.commit()


def flipped(data: bytes, place: int) -> bytes:
    """Bytes of which one is another letter or digit."""
    changed = bytearray(data)
    changed[place] = ord("x") if changed[place] != ord("x") else ord("y")
    return bytes(changed)


def mutations(file: Path) -> Iterator[Mutation]:
    """Changes of every table that says what happened in alpha."""
    draw = random.Random(5)
    with closing(sqlite3.connect(file)) as connection:

        def rows(sql: str) -> list[tuple[Any, ...]]:
            return connection.execute(sql).fetchall()

        where = "WHERE tenant_id = 'alpha' AND"
        entries = rows(
            "SELECT entry_index, entry, items FROM evidence_entries "
            "WHERE tenant_id = 'alpha' ORDER BY 1"
        )
        at = f"evidence_entries {where} entry_index = ?"
        for index, entry, items in entries:
            bad = flipped(entry, draw.randrange(len(entry)))
            sql = f"UPDATE evidence_entries SET entry = ? {where} entry_index = ?"
            yield Mutation("entry changed", sql, (bad, index), index)
            yield Mutation("entry dropped", f"DELETE FROM {at}", (index,), index)
            sql = f"UPDATE evidence_entries SET items = ? {where} entry_index = ?"
            if items is None:
                yield Mutation("items added", sql, (b'[{"run":"x"}]', index), index)
                continue
            bad = flipped(items, draw.randrange(len(items)))
            yield Mutation("items changed", sql, (bad, index), index)
            yield Mutation("items dropped", sql, (None, index), index)
        for index in range(len(entries) - 1):
            # The pair is swapped: the later one takes the earlier one's bytes.
            sql = (
                "UPDATE evidence_entries SET entry = (SELECT entry FROM evidence_entries other "
                f"{where} other.entry_index = ?) {where} entry_index = ?"
            )
            yield Mutation("entry repeated", sql, (index, index + 1), index + 1)
        for level, position in rows(
            "SELECT level, position FROM evidence_nodes WHERE tenant_id = 'alpha'"
        ):
            same = f"{where} level = ? AND position = ?"
            first = position << level
            sql = f"UPDATE evidence_nodes SET hash = zeroblob(32) {same}"
            yield Mutation("node changed", sql, (level, position), first)
            yield Mutation(
                "node dropped", f"DELETE FROM evidence_nodes {same}", (level, position), first
            )
        size = len(entries)
        head = "UPDATE evidence_heads SET size = ? WHERE tenant_id = 'alpha'"
        yield Mutation("head moved back", head, (size - 1,), size - 1)
        yield Mutation("head moved on", head, (size + 1,), size)
        yield Mutation("head at nought", head, (0,), 0)
        for signed, note in rows(
            "SELECT size, note FROM evidence_checkpoints WHERE tenant_id = 'alpha'"
        ):
            root = note.split("\n")[2]
            sql = f"UPDATE evidence_checkpoints SET note = ? {where} size = ?"
            bad = note.replace(root, root[:5] + ("A" if root[5] != "A" else "B") + root[6:])
            yield Mutation("checkpoint changed", sql, (bad, signed))
            sql = f"UPDATE evidence_checkpoints SET size = ? {where} size = ?"
            yield Mutation("checkpoint moved", sql, (signed + 1000, signed))
        yield from _of_records(rows, draw, where)


def _of_records(rows: Any, draw: random.Random, where: str) -> Iterator[Mutation]:
    """Changes of definitions, runs, tasks and events."""
    for (canonical,) in rows("SELECT canonical FROM workflow_definitions WHERE tenant_id='alpha'"):
        sql = "UPDATE workflow_definitions SET canonical = ? WHERE tenant_id = 'alpha'"
        bad = flipped(canonical, draw.randrange(len(canonical)))
        yield Mutation("definition changed", sql, (bad,))
    for run_id, sequence, index in rows(
        "SELECT run_id, sequence, entry_index FROM workflow_execution_log WHERE tenant_id = 'alpha'"
    ):
        same = f"{where} run_id = ? AND sequence = ?"
        for what in (
            "kind = kind + 1",
            "at_us = at_us + 1",
            "attempt = attempt + 1",
            "term = term + 1",
            "agent = agent || 'x'",
            "message = message || 'x'",
            "code = code || 'x'",
            "task_key = task_key || 'x'",
        ):
            sql = f"UPDATE workflow_execution_log SET {what} {same}"
            yield Mutation(f"event: {what}", sql, (run_id, sequence), index)
        sql = f"UPDATE workflow_execution_log SET entry_index = 0 {same}"
        yield Mutation("event of another entry", sql, (run_id, sequence))
        sql = f"DELETE FROM workflow_execution_log {same}"
        yield Mutation("event dropped", sql, (run_id, sequence))
    for run_id, key in rows(
        "SELECT run_id, task_key FROM workflow_tasks WHERE tenant_id='alpha' AND state=5"
    ):
        for what in ("output = x'38'", "result_hash = zeroblob(32)"):
            sql = f"UPDATE workflow_tasks SET {what} {where} run_id = ? AND task_key = ?"
            yield Mutation(f"task: {what}", sql, (run_id, key))
    for run_id, given in rows("SELECT run_id, input FROM workflow_runs WHERE tenant_id = 'alpha'"):
        for what in (
            "workflow_digest = 'sha256:00'",
            "constitution_digest = 'sha256:00'",
            "succeeded = succeeded + 1",
            "create_us = create_us + 1",
            "end_us = coalesce(end_us, 0) + 1",
            "started_by = 'me'",
            "correlation_id = 'me'",
            "output = x'7b7d'",
            *(["input = x'7b7d'"] if given is not None else []),
        ):
            sql = f"UPDATE workflow_runs SET {what} {where} run_id = ?"
            yield Mutation(f"run: {what}", sql, (run_id,))


async def test_a_run_that_was_cancelled_is_good_in_both_audits(tmp_path: Path) -> None:
    async with serving(f"sqlite:///{tmp_path}/tenure.db", tmp_path) as live:
        await ended_run(live, "alpha")
        runs = live.calls("alpha/submitter").runs
        started = await runs.StartRun(runs_pb2.StartRunRequest(workflow="fan"))
        await runs.CancelRun(runs_pb2.CancelRunRequest(run_id=started.run_id))
    chain = SigningKeys.load(tmp_path / "tenure.db.signing-key.json").chain()
    assert audited(tmp_path, chain) == []
    with Database(database(tmp_path)) as file:
        assert judge(file, "alpha", chain).audit.faults == ()


async def test_every_change_of_the_file_is_found_and_the_first_bad_entry_named(
    house: LiveCoordinator, tmp_path: Path
) -> None:
    """Entries, items, nodes, heads, checkpoints, definitions, runs, tasks, events."""
    keys = SigningKeys.load(tmp_path / "tenure.db.signing-key.json")
    chain = keys.chain()
    assert audited(tmp_path, chain) == []
    tried = list(mutations(database(tmp_path)))
    # Each kind of change at least twice, and many more of what there is most of.
    kinds: dict[str, list[Mutation]] = {}
    for mutation in tried:
        kinds.setdefault(mutation.name, []).append(mutation)
    chosen = [
        each
        for found in kinds.values()
        for each in random.Random(7).sample(found, min(len(found), 9))
    ]
    assert len(chosen) >= 150
    missed = await asyncio.to_thread(_missed, tmp_path, chain, chosen)
    assert missed == []


def _missed(folder: Path, chain: Chain, chosen: list[Mutation]) -> list[str]:
    missed = []
    copy = folder / "copy"
    copy.mkdir()
    for mutation in chosen:
        for file in copy.iterdir():
            file.unlink()
        shutil.copy(database(folder), database(copy))
        change(database(copy), mutation.sql, *mutation.values)
        found = [each for each in audited(copy, chain) if each.tenant_id == "alpha"]
        named = [each.index for each in found if each.index is not None]
        if not found or (mutation.index is not None and min(named, default=-1) != mutation.index):
            words = [each.sentence for each in found]
            missed.append(f"{mutation.name} {mutation.values} {mutation.index}: {words}")
    return missed


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        (
            "UPDATE evidence_entries SET entry = CAST(replace(entry, 'allow', 'warn') AS BLOB) "
            "WHERE tenant_id = 'alpha' AND "
            "entry_index = (SELECT size - 2 FROM evidence_heads WHERE "
            "tenant_id = 'alpha')",
            "is not what was written",
        ),
        (
            "UPDATE evidence_heads SET size = size - 1 WHERE tenant_id = 'alpha'",
            "is there",
        ),
        (
            "UPDATE workflow_definitions SET "
            "canonical = CAST(replace(canonical, 't0', 't9') AS BLOB) WHERE tenant_id = 'alpha'",
            "of an open run is not what was registered",
        ),
    ],
)
async def test_a_tenant_whose_record_is_broken_is_stopped_and_no_other(
    house: LiveCoordinator, tmp_path: Path, sql: str, words: str
) -> None:
    """Its calls say why, its log can be looked at, and operators see it."""
    change(database(tmp_path), sql)
    async with again(house, tmp_path) as live:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await live.calls("alpha/submitter").runs.ListRuns(runs_pb2.ListRunsRequest())
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert words in (raised.value.details() or "")
        assert await all_entries(evidence(live, "alpha/viewer"))
        shown = await live.calls("operator").tenants.ListTenants(tenants_pb2.ListTenantsRequest())
        assert [bool(tenant.quarantine) for tenant in shown.tenants] == [True, False]
        assert words in shown.tenants[0].quarantine
        await ended_run(live, "beta")


async def test_a_coordinator_does_not_start_on_a_broken_log_of_the_installation(
    house: LiveCoordinator, tmp_path: Path
) -> None:
    """For nothing could be written down there."""
    change(
        database(tmp_path),
        "UPDATE evidence_entries SET entry = x'7b7d' WHERE tenant_id = '' AND entry_index = "
        "(SELECT size - 1 FROM evidence_heads WHERE tenant_id = '')",
    )
    with pytest.raises(app.StartError, match="the installation's own log is broken: entry"):
        async with again(house, tmp_path):
            raise AssertionError("it started")


async def test_a_file_of_other_keys_is_refused(house: LiveCoordinator, tmp_path: Path) -> None:
    """And so is one that is gone: nobody could verify what it would sign."""
    other = tmp_path / "other.json"
    SigningKeys.create(other)
    with pytest.raises(app.StartError, match="this store's evidence is signed by"):
        async with again(house, tmp_path, signing_key=other):
            raise AssertionError("it started")
    with pytest.raises(app.StartError, match="is missing"):
        async with again(house, tmp_path, signing_key=tmp_path / "gone.json"):
            raise AssertionError("it started")
    assert not (tmp_path / "gone.json").exists()
    file = tmp_path / "tenure.db.signing-key.json"
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    with pytest.raises(app.StartError, match="may be read by others"):
        async with again(house, tmp_path):
            raise AssertionError("it started")


async def test_bundles_stay_verifiable_when_the_key_changes(
    house: LiveCoordinator, tmp_path: Path
) -> None:
    """Old ones and new ones, with the root key; and an older file is refused from then on."""
    file, old = tmp_path / "tenure.db.signing-key.json", tmp_path / "old.json"
    root = SigningKeys.load(file).root_key
    async with again(house, tmp_path) as live:
        [run, *_] = (await live.calls("viewer").runs.ListRuns(runs_pb2.ListRunsRequest())).runs
        before = await exported(live, "viewer", run.run_id)
    shutil.copy(file, old)
    rotated = signing.rotate(file, 5)
    async with again(house, tmp_path) as live:
        after = await exported(live, "viewer", run.run_id)
        keys = await evidence(live, "agent").GetSigningKeys(evidence_pb2.GetSigningKeysRequest())
        assert (keys.root_key, len(keys.certificates)) == (root, 1)
    for bundle in (before, after):
        assert verify.verify(bundle, root).findings == ()
    newest = rotated.newest.verifier.text
    assert verify.verify(after, newest).findings == ()
    assert verify.verify(before, newest).findings != ()
    assert audited(tmp_path, rotated.chain()) == []
    with pytest.raises(app.StartError, match="is older than the store"):
        async with again(house, tmp_path, signing_key=old):
            raise AssertionError("it started")


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE evidence_entries SET entry = zeroblob(9) WHERE entry_index = 1", "entry 1"),
        ("DELETE FROM evidence_entries WHERE entry_index = 2", "entry 2"),
        ("UPDATE evidence_nodes SET hash = zeroblob(32) WHERE level = 1", "node 0 of level 1"),
        ("UPDATE workflow_definitions SET canonical = zeroblob(9)", "definition sha256:"),
    ],
)
async def test_a_report_says_that_a_log_was_not_kept(
    house: LiveCoordinator, tmp_path: Path, sql: str, said: str
) -> None:
    """The report is given all the same, and so is a trial."""
    request = constitution_pb2.GetComplianceReportRequest()
    async with again(house, tmp_path) as live:
        calls = live.calls("alpha/admin").constitution
        whole = await calls.GetComplianceReport(request)
        assert all(law.kept for law in whole.laws)
        assert f"Checked {whole.log_size} newest of {whole.log_size}" in whole.laws[0].standing
        change(database(tmp_path), sql)
        report = await calls.GetComplianceReport(request)
        broken = [law for law in report.laws if not law.kept]
        assert broken
        assert all(said in law.standing for law in broken)
        assert report.workflows[0].workflow == "fan"


async def test_a_definition_that_was_changed_is_passed_over(
    house: LiveCoordinator, tmp_path: Path
) -> None:
    """A report and a trial are given without what it says."""
    async with again(house, tmp_path) as live:
        change(database(tmp_path), "UPDATE workflow_definitions SET canonical = zeroblob(9)")
        live.server.engine.workflows._registry.erase_tenant("alpha")
        calls = live.calls("alpha/admin").constitution
        request = constitution_pb2.GetComplianceReportRequest(workflow="fan")
        report = await calls.GetComplianceReport(request)
        assert not all(law.kept for law in report.laws)
        text = (
            '{"articles": [{"id": "a", "law": "precedence", "perspective": "security_boundary", '
            '"point": "lease", "effect": "deny", "expression": "false", "message": "no"}]}'
        )
        trial = calls.TryConstitution(constitution_pb2.TryConstitutionRequest(text=text))
        assert [change async for step in trial for change in step.changes] == []


async def test_an_index_that_misses_rows_is_found(house: LiveCoordinator, tmp_path: Path) -> None:
    """No log says anything of it, and what is read by it is not all there is."""
    chain = SigningKeys.load(tmp_path / "tenure.db.signing-key.json").chain()
    index = "api_key_tenants_api_key_id"
    forget_index(database(tmp_path), index, "DELETE FROM api_key_tenants")
    [finding] = audited(tmp_path, chain)
    assert finding.tenant_id == ""
    assert "tenure.db is damaged: " in finding.reason
    assert index in finding.reason
