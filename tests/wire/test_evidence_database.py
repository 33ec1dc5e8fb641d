"""A database file is audited offline, and whatever was done to it is named."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.wire.conftest import Ask
from tests.wire.nest import Kept


def test_a_database_file_is_audited_offline(kept: Kept, ask: Ask) -> None:
    before = sorted(each.name for each in kept.data.iterdir())
    code, made = ask("audit", "--database", str(kept.database))
    assert (code, made["ok"], made["records"]) == (0, True, True), made
    logs = {each["log"]: each for each in made["logs"]}
    assert set(logs) >= {"dev", ""}
    assert logs["dev"]["events"] == 8, "start, three leases, retry, two successes, end"
    assert logs["dev"]["checkpoints"] >= 1
    assert logs["dev"]["events_pruned"] + logs["dev"]["payloads_pruned"] == 0
    assert sorted(each.name for each in kept.data.iterdir()) == before, "nothing is left behind"
    code, made = ask("audit", "--database", str(kept.database), "--tenant", "dev")
    assert (code, [each["log"] for each in made["logs"]]) == (0, ["dev"])


def test_what_is_no_database_cannot_be_audited(kept: Kept, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, but long enough to be looked at" * 100)
    for path in (tmp_path / "text", tmp_path / "missing", tmp_path):
        assert ask("audit", "--database", str(path))[0] == 2
    assert ask("audit", "--database", str(kept.database), "--tenant", "nobody")[0] == 2


Damage = Callable[[sqlite3.Connection], int | None]


def entry_with(database: sqlite3.Connection, event: int) -> int:
    """The number of the entry by which an event of this kind happened."""
    sql = "SELECT min(entry_index) FROM workflow_execution_log WHERE kind = ?"
    number: int = database.execute(sql, (event,)).fetchone()[0]
    return number


def damage_entry(database: sqlite3.Connection) -> int:
    index = entry_with(database, 6)
    where = "WHERE tenant_id = 'dev' AND entry_index = ?"
    [(entry,)] = database.execute(f"SELECT entry FROM evidence_entries {where}", (index,))
    changed = entry.replace(b'"allow"', b'"warn"')
    database.execute(f"UPDATE evidence_entries SET entry = ? {where}", (changed, index))
    return index


def damage_items(database: sqlite3.Connection) -> int:
    index = entry_with(database, 7)
    where = "WHERE tenant_id = 'dev' AND entry_index = ?"
    [(items,)] = database.execute(f"SELECT items FROM evidence_entries {where}", (index,))
    changed = items.replace(b'"attempt":1', b'"attempt":2')
    database.execute(f"UPDATE evidence_entries SET items = ? {where}", (changed, index))
    return index


def sql_at(event: int, sql: str) -> Damage:
    """Executes SQL that concerns an event; the entry of that event must be named."""

    def damage(database: sqlite3.Connection) -> int:
        index = entry_with(database, event)
        cursor = database.execute(sql, {"index": index, "kind": event})
        assert cursor.rowcount > 0, "nothing was damaged"
        return index

    return damage


ENTRY = "tenant_id = 'dev' AND entry_index = :index"
EVENT = "tenant_id = 'dev' AND kind = :kind"
STARTED, LEASED, SUCCEEDED, RETRYING, ENDED = 1, 6, 7, 8, 3
DAMAGES: dict[str, Damage] = {
    "an entry": damage_entry,
    "items": damage_items,
    "missing items": sql_at(LEASED, f"UPDATE evidence_entries SET items = NULL WHERE {ENTRY}"),
    "a missing entry": sql_at(LEASED, f"DELETE FROM evidence_entries WHERE {ENTRY}"),
    "columns of an entry": sql_at(
        LEASED, f"UPDATE evidence_entries SET principal = 'me' WHERE {ENTRY}"
    ),
    "a leaf": sql_at(
        SUCCEEDED,
        "UPDATE evidence_nodes SET hash = zeroblob(32) WHERE tenant_id = 'dev' AND level = 0 "
        "AND position = :index",
    ),
    "a missing leaf": sql_at(
        SUCCEEDED,
        "DELETE FROM evidence_nodes WHERE tenant_id = 'dev' AND level = 0 AND position = :index",
    ),
    "the end of an event": sql_at(
        RETRYING, f"UPDATE workflow_execution_log SET message = 'fine' WHERE {EVENT}"
    ),
    "the agent of an event": sql_at(
        LEASED, f"UPDATE workflow_execution_log SET agent = 'me' WHERE {EVENT}"
    ),
    "the entry of an event": sql_at(
        SUCCEEDED, f"UPDATE workflow_execution_log SET entry_index = 0 WHERE {EVENT}"
    ),
    "a missing event": sql_at(RETRYING, f"DELETE FROM workflow_execution_log WHERE {EVENT}"),
    "the input of a run": sql_at(
        STARTED, "UPDATE workflow_runs SET input = CAST('{\"text\":1}' AS BLOB)"
    ),
    "the output of a run": sql_at(
        ENDED, "UPDATE workflow_runs SET output = CAST('{\"seen\":1}' AS BLOB)"
    ),
    "the definition of a run": sql_at(STARTED, "UPDATE workflow_runs SET workflow_digest = 'x'"),
    "the state of a run": sql_at(ENDED, "UPDATE workflow_runs SET state = 4"),
    "an output": sql_at(
        SUCCEEDED,
        "UPDATE workflow_tasks SET output = CAST('1' AS BLOB) WHERE task_key = 'look'",
    ),
    "a result": sql_at(
        SUCCEEDED, "UPDATE workflow_tasks SET result_hash = zeroblob(32) WHERE task_key = 'look'"
    ),
    "the state of a task": sql_at(
        SUCCEEDED, "UPDATE workflow_tasks SET state = 6 WHERE task_key = 'look'"
    ),
    "the start of a run": sql_at(STARTED, "UPDATE workflow_runs SET create_us = create_us + 1"),
    "who started a run": sql_at(STARTED, "UPDATE workflow_runs SET started_by = 'me'"),
    "the call of a run": sql_at(STARTED, "UPDATE workflow_runs SET correlation_id = 'me'"),
    "the end of a run": sql_at(ENDED, "UPDATE workflow_runs SET end_us = end_us + 1"),
    "the counters of a run": sql_at(ENDED, "UPDATE workflow_runs SET failed = failed + 1"),
    "the term of a run's event": sql_at(
        STARTED, f"UPDATE workflow_execution_log SET term = 7 WHERE {EVENT}"
    ),
    "the agent of a task": sql_at(
        SUCCEEDED, "UPDATE workflow_tasks SET agent = 'me' WHERE task_key = 'look'"
    ),
    "the end of a task": sql_at(
        SUCCEEDED, "UPDATE workflow_tasks SET end_us = end_us + 1 WHERE task_key = 'look'"
    ),
    "a missing task": sql_at(SUCCEEDED, "DELETE FROM workflow_tasks WHERE task_key = 'look'"),
}
#: Damage that no entry stands for, and what the audit calls it.
WHOLE_DAMAGES = [
    ("definition", "UPDATE workflow_definitions SET canonical = CAST('{}' AS BLOB)"),
    ("checkpoint", "UPDATE evidence_checkpoints SET note = replace(note, 'tenure.v1', 'tenure.2')"),
    ("head", "UPDATE evidence_heads SET size = size + 1 WHERE tenant_id = 'dev'"),
    ("run", "DELETE FROM workflow_execution_log"),
    (
        "constitution",
        "INSERT INTO constitutions VALUES ('dev', 1, 'sha256:00', CAST('{}' AS BLOB), 1, 'me')",
    ),
    (
        "run",
        """
        CREATE TEMPORARY TABLE more AS SELECT * FROM workflow_runs;
        UPDATE more SET run_id = 'an-orphan';
        INSERT INTO workflow_runs SELECT * FROM more;
        """,
    ),
    (
        "event",
        """
        CREATE TEMPORARY TABLE more AS SELECT * FROM workflow_execution_log WHERE kind = 7;
        UPDATE more SET sequence = sequence + 100, entry_index = NULL;
        INSERT INTO workflow_execution_log SELECT * FROM more;
        """,
    ),
    (
        "event",
        """
        CREATE TEMPORARY TABLE more AS SELECT * FROM workflow_execution_log WHERE kind = 7;
        UPDATE more SET sequence = sequence + 100;
        INSERT INTO workflow_execution_log SELECT * FROM more;
        """,
    ),
]


@pytest.fixture
def copy(kept: Kept, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A copy of the database to be damaged, in the file `copy.db`."""
    shutil.copy(kept.database, tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as database:
        yield database


def audited(database: sqlite3.Connection, path: Path, ask: Ask) -> dict[str, Any]:
    """Ends the damaging, and gives what an audit says of the tenant's log."""
    database.commit()
    database.execute("PRAGMA journal_mode = DELETE")
    database.close()
    code, made = ask("audit", "--database", str(path), "--tenant", "dev")
    assert (code, made["ok"]) == (1, False)
    log: dict[str, Any] = made["logs"][0]
    return log


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_database_is_found_and_the_first_bad_entry_named(
    name: str, copy: sqlite3.Connection, ask: Ask, tmp_path: Path
) -> None:
    index = DAMAGES[name](copy)
    log = audited(copy, tmp_path / "copy.db", ask)
    assert log["first_bad_entry"]["index"] == index, log["faults"]


@pytest.mark.parametrize(("what", "sql"), WHOLE_DAMAGES)
def test_damage_beside_the_entries_is_found_and_called_by_its_name(
    what: str, sql: str, copy: sqlite3.Connection, ask: Ask, tmp_path: Path
) -> None:
    copy.executescript(sql)
    log = audited(copy, tmp_path / "copy.db", ask)
    assert what in {fault["what"] for fault in log["faults"]}


@pytest.mark.parametrize("seed", range(4))
def test_whatever_bits_of_the_file_change_an_audit_ends_with_an_answer(
    seed: int, kept: Kept, ask: Ask, tmp_path: Path
) -> None:
    """Good where it does not matter, bad, or unusable: never a trace of our own code."""
    draw = random.Random(seed)
    good = kept.database.read_bytes()
    codes = set()
    for _ in range(25):
        data = bytearray(good)
        # Most of a small database is room for more; a tenth of the flips meet anything.
        for _ in range(draw.choice((1, 40, 400))):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (tmp_path / "bits.db").write_bytes(data)
        code, made = ask("audit", "--database", str(tmp_path / "bits.db"))
        codes.add(code)
        assert "unexpected" not in made
        if isinstance(made, dict):
            assert made["ok"] is (code == 0)
    assert codes <= {0, 1, 2}
    assert 1 in codes


def test_what_retention_removes_is_counted_and_not_blamed(
    copy: sqlite3.Connection, ask: Ask, tmp_path: Path
) -> None:
    for sql in (
        "UPDATE workflow_tasks SET output = NULL",
        "UPDATE workflow_runs SET input = NULL, output = NULL",
        "DELETE FROM workflow_tasks; DELETE FROM workflow_execution_log; DELETE FROM workflow_runs",
    ):
        copy.executescript(sql)
        code, made = ask("audit", "--database", str(tmp_path / "copy.db"))
        assert code == 0, made
    [log] = [each for each in made["logs"] if each["log"] == "dev"]
    assert (log["ok"], log["events"], log["events_pruned"]) == (True, 0, 8)


def test_acts_of_many_events_are_audited_like_those_of_few(ask: Ask, tmp_path: Path) -> None:
    """Their items are stored packed. Among them are tasks that fail, and what depends on them."""
    tasks: list[dict[str, Any]] = [{"key": f"t{n}", "kind": "tenure.noop"} for n in range(40)]
    tasks += [
        {"key": "bad", "kind": "tenure.fail", "retry": {"max_attempts": 2, "initial_delay": "1ms"}},
        {"key": "after", "kind": "tenure.noop", "depends_on": ["bad"]},
    ]
    file, data = tmp_path / "many.json", tmp_path / "data"
    file.write_text(json.dumps({"name": "many", "tasks": tasks}))
    command = ["-m", "tenure_client", "dev", "run", str(file), "--data", str(data), "--json"]
    made = subprocess.run([sys.executable, *command], capture_output=True, timeout=60, check=False)
    assert json.loads(made.stdout)["state"] == "FAILED", made.stderr
    with closing(sqlite3.connect(data / "tenure.db")) as database:
        sql = "SELECT count(*) FROM evidence_entries WHERE hex(substr(items, 1, 1)) != '5B'"
        assert database.execute(sql).fetchone()[0] > 0, "nothing was packed"
    code, found = ask("audit", "--database", str(data / "tenure.db"))
    assert (code, found["ok"]) == (0, True), found
