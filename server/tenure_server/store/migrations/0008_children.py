"""The runs of a run in the order of their creation, so that they can be listed a page at a time."""


def up(migrator, db):
    for sql in (
        "DROP INDEX workflow_runs_parent",
        # Few runs are anybody's, and only those are looked for.
        "CREATE INDEX workflow_runs_parent_create_us_run_id"
        " ON workflow_runs (tenant_id, parent_run_id, create_us, run_id)"
        " WHERE parent_run_id != ''",
    ):
        db.execute_sql(sql)
