"""Tenants, keys, seats, workflows, runs, tasks, their log, and answered requests.

A frozen copy of the models as they were then, on purpose independent of
`tenure_server.store.tables`.

On SQLite all tables are STRICT, and those with small rows are clustered on their key (WITHOUT
ROWID), so that one tree serves for both. Rows that carry payloads would lie in the way of every
search in such a tree. On PostgreSQL texts compare by bytes (COLLATE "C"), as they do on SQLite.
"""

from functools import partial

from peewee import (
    SQL,
    BigIntegerField,
    BlobField,
    CompositeKey,
    IntegerField,
    Model,
    SqliteDatabase,
    TextField,
)


def up(migrator, db):
    sqlite = isinstance(db, SqliteDatabase)
    text = partial(TextField, collation=None if sqlite else '"C"')
    clustered = ["STRICT, WITHOUT ROWID"] if sqlite else None
    by_row = ["STRICT"] if sqlite else None

    class Table(Model):
        class Meta:
            database = db
            legacy_table_names = False
            table_settings = clustered

    class Tenant(Table):
        tenant_id = text(primary_key=True)
        display_name = text()
        max_leases = IntegerField()
        weight = IntegerField()
        create_us = BigIntegerField()

        class Meta:
            table_name = "tenants"

    class Seat(Table):
        tenant_id = text(primary_key=True)
        holder = text()
        address = text()
        term = BigIntegerField()
        until_us = BigIntegerField()

        class Meta:
            table_name = "seats"
            constraints = (_reference("tenants", "tenant_id"),)

    class ApiKey(Table):
        api_key_id = text(primary_key=True)
        name = text()
        secret_hash = BlobField(unique=True)
        roles = IntegerField()
        create_us = BigIntegerField()
        expire_us = BigIntegerField(null=True)
        revoke_us = BigIntegerField(null=True)

        class Meta:
            table_name = "api_keys"

    class ApiKeyTenant(Table):
        tenant_id = text()
        api_key_id = text(index=True)

        class Meta:
            table_name = "api_key_tenants"
            primary_key = CompositeKey("tenant_id", "api_key_id")
            constraints = (
                _reference("tenants", "tenant_id"),
                _reference("api_keys", "api_key_id"),
            )

    class WorkflowDefinition(Table):
        tenant_id = text()
        name = text()
        version = IntegerField()
        digest = text()
        task_count = IntegerField()
        dependency_count = IntegerField()
        create_us = BigIntegerField()
        created_by = text()
        canonical = BlobField()

        class Meta:
            table_name = "workflow_definitions"
            primary_key = CompositeKey("tenant_id", "name", "version")
            indexes = ((("tenant_id", "digest", "name"), True),)
            constraints = (_reference("tenants", "tenant_id"),)
            table_settings = by_row

    class WorkflowRun(Table):
        tenant_id = text()
        run_id = text()
        workflow = text()
        workflow_version = IntegerField()
        workflow_digest = text()
        state = IntegerField()
        priority = IntegerField()
        labels = text()
        input = BlobField(null=True)
        input_type = text(null=True)
        correlation_id = text()
        started_by = text()
        reason = text()
        task_count = IntegerField()
        succeeded = IntegerField()
        failed = IntegerField()
        upstream_failed = IntegerField()
        cancelled = IntegerField()
        create_us = BigIntegerField()
        start_us = BigIntegerField(null=True)
        end_us = BigIntegerField(null=True)

        class Meta:
            table_name = "workflow_runs"
            primary_key = CompositeKey("tenant_id", "run_id")
            table_settings = by_row
            indexes = (
                (("tenant_id", "state", "create_us", "run_id"), False),
                (("tenant_id", "workflow", "state", "create_us", "run_id"), False),
            )
            constraints = (
                SQL(
                    "FOREIGN KEY (tenant_id, workflow, workflow_version)"
                    " REFERENCES workflow_definitions (tenant_id, name, version)"
                ),
            )

    class WorkflowTask(Table):
        tenant_id = text()
        run_id = text()
        task_index = IntegerField()
        task_key = text()
        state = IntegerField()
        attempt = IntegerField()
        term = BigIntegerField()
        lost = IntegerField()
        agent = text()
        holder = text()
        token_hash = BlobField(null=True)
        lease_us = BigIntegerField(null=True)
        end_us = BigIntegerField(null=True)
        retry_us = BigIntegerField(null=True)
        result_hash = BlobField(null=True)
        failure_code = text(null=True)
        failure_message = text(null=True)
        output = BlobField(null=True)
        output_type = text(null=True)
        checkpoint = BlobField(null=True)
        checkpoint_type = text(null=True)

        class Meta:
            table_name = "workflow_tasks"
            primary_key = CompositeKey("tenant_id", "run_id", "task_index")
            table_settings = by_row

    class WorkflowExecutionLog(Table):
        tenant_id = text()
        run_id = text()
        sequence = BigIntegerField()
        at_us = BigIntegerField()
        kind = IntegerField()
        task_key = text()
        attempt = IntegerField()
        term = BigIntegerField()
        agent = text()
        code = text()
        message = text()

        class Meta:
            table_name = "workflow_execution_log"
            primary_key = CompositeKey("tenant_id", "run_id", "sequence")

    class Request(Table):
        tenant_id = text()
        request_id = text()
        method = text()
        digest = BlobField()
        response = BlobField()
        at_us = BigIntegerField(index=True)

        class Meta:
            table_name = "requests"
            primary_key = CompositeKey("tenant_id", "request_id")

    for table in (
        Tenant,
        Seat,
        ApiKey,
        ApiKeyTenant,
        WorkflowDefinition,
        WorkflowRun,
        WorkflowTask,
        WorkflowExecutionLog,
        Request,
    ):
        # One by one, because Peewee does not see which table refers to which.
        db.create_tables([table], safe=False)


def _reference(table, column):
    return SQL(f"FOREIGN KEY ({column}) REFERENCES {table} ({column})")
