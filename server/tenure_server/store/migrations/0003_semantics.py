"""What runs and tasks keep of conditions, waits, runs of runs, deadlines and outputs."""

from peewee import SqliteDatabase


def up(migrator, db):
    sqlite = isinstance(db, SqliteDatabase)
    text = "TEXT" if sqlite else 'TEXT COLLATE "C"'
    whole, blob = ("INTEGER", "BLOB") if sqlite else ("BIGINT", "BYTEA")
    for sql in (
        "ALTER TABLE workflow_runs ADD COLUMN skipped INTEGER NOT NULL DEFAULT 0",
        f"ALTER TABLE workflow_runs ADD COLUMN parent_run_id {text} NOT NULL DEFAULT ''",
        f"ALTER TABLE workflow_runs ADD COLUMN parent_task {text} NOT NULL DEFAULT ''",
        f"ALTER TABLE workflow_runs ADD COLUMN deadline_us {whole}",
        f"ALTER TABLE workflow_runs ADD COLUMN detail {text}",
        f"ALTER TABLE workflow_runs ADD COLUMN output {blob}",
        f"ALTER TABLE workflow_runs ADD COLUMN output_type {text}",
        f"ALTER TABLE workflow_tasks ADD COLUMN detail {text}",
        # Few runs are anybody's, and only those are looked for.
        "CREATE INDEX workflow_runs_parent ON workflow_runs (tenant_id, parent_run_id)"
        " WHERE parent_run_id != ''",
    ):
        db.execute_sql(sql)
