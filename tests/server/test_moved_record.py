"""The record of runs that were moved is good in both audits, and what is changed of it is found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.conftest import serving
from tests.server.rpc.constitutions import work_off
from tests.server.rpc.test_moves import BOOM, WIDER, moved, paused
from tests.server.rpc.test_seeing import registered, started
from tests.server.test_tampering import audited, change, database

from tenure_evidence.database import Database
from tenure_evidence.keys import Chain
from tenure_evidence.records import judge
from tenure_evidence.signing import SigningKeys
from tenure_server.store import sqlite

RUN = "run_id = (SELECT run_id FROM workflow_runs WHERE workflow_version = 2 AND state = ?)"
FAILED, PAUSED = 4, 6


@pytest.fixture
async def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    """A file with a paused run that was moved, one that was moved and has failed again, and one
    that never was; and the keys it is signed with.
    """
    monkeypatch.setattr(sqlite, "WAL_BYTES", 0)
    async with serving(f"sqlite:///{tmp_path}/tenure.db", tmp_path) as live:
        await registered(live, "flow")
        await started(live, "flow")
        assert await work_off(live)
        assert await work_off(live)
        again = await started(live, "flow")
        assert await work_off(live)
        assert await work_off(live, **BOOM)
        stays = await paused(live)
        await registered(live, "flow", WIDER)
        await moved(live, again, resume=True)
        assert await work_off(live)
        assert await work_off(live, **BOOM)
        await moved(live, stays)
    return SigningKeys.load(tmp_path / "tenure.db.signing-key.json").chain()


def blamed(folder: Path, chain: Chain) -> tuple[list[str], list[str]]:
    """What each of the two audits finds."""
    found = [each.sentence for each in audited(folder, chain)]
    with Database(database(folder)) as file:
        faults = judge(file, "alpha", chain).audit.faults
    return found, [fault.reason for fault in faults]


async def test_moved_runs_are_good_in_both_audits(chain: Chain, tmp_path: Path) -> None:
    assert blamed(tmp_path, chain) == ([], [])


@pytest.mark.parametrize("state", [FAILED, PAUSED])
@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (
            "UPDATE workflow_runs SET workflow_digest = (SELECT digest FROM workflow_definitions "
            "WHERE version = 1 AND tenant_id = 'alpha'), workflow_version = 1",
            "definition",
        ),
        ("UPDATE workflow_runs SET workflow_digest = 'sha256:00'", "definition"),
        # Where it was the last event, what is left says another definition than the run's row.
        ("DELETE FROM workflow_execution_log", "run"),
        ("UPDATE workflow_execution_log SET message = 'version 1 to 3'", "event"),
        ("UPDATE workflow_execution_log SET kind = 15", "event"),
        ("UPDATE workflow_tasks SET output = x'38'", "output"),
        ("UPDATE workflow_runs SET state = 1", "run"),
    ],
)
async def test_what_is_changed_of_a_moved_run_is_found(
    chain: Chain, tmp_path: Path, sql: str, said: str, state: int
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(database(tmp_path), database(copy))
    where = {
        "workflow_execution_log": f"{RUN} AND kind = 20",
        "workflow_tasks": f"{RUN} AND task_key = 'a'",
    }
    table = next((name for name in where if name in sql), "workflow_runs")
    run = "workflow_version = 2 AND state = ?"
    change(database(copy), f"{sql} WHERE {where.get(table, run)}", state)
    found, faults = blamed(copy, chain)
    assert any(said in one for one in found), found
    assert any(said in one for one in faults), faults
