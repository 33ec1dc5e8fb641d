"""The tables as Peewee models: names and types for queries.

Those of evidence and of schedules have modules of their own; `schema` names them all. The tables
themselves are made by `migrations`, whose scripts hold frozen copies; a test compares the two.

All times are microseconds since the Unix epoch. States, kinds and roles are the numbers of
`core.ledger.lifecycle` and `core.ledger.records`. Every table of a tenant begins with its
`tenant_id`, in its key too: so a tenant's rows lie together, and can be spread by tenant over the
nodes of a larger database.

What the hot path pays for, per row:

- ``workflow_tasks`` and ``workflow_execution_log`` have no index but their key and no foreign key:
  the engine alone writes them, and only for runs that it has just checked.
- ``workflow_runs`` has two more indexes, both led by the state. They serve the list of open runs at
  a restart and every page of every list: a list over several states merges one sorted piece for
  each state, so no filter ever walks over what it does not show.
- ``run_terms`` has rows for runs with labels, and for runs that ended with a reason; for others it
  costs nothing.
- ``requests`` has an index on time, for pruning.
"""

from __future__ import annotations

from peewee import BigIntegerField, BlobField, CompositeKey, IntegerField, Model, TextField


class Table(Model):
    """What all tables share."""

    class Meta:
        legacy_table_names = False


class Tenant(Table):
    """A tenant and its limits."""

    tenant_id = TextField(primary_key=True)
    display_name = TextField()
    max_leases = IntegerField()
    weight = IntegerField()
    create_us = BigIntegerField()

    class Meta:
        table_name = "tenants"


class Seat(Table):
    """A coordinator's lease on a tenant. Holder and address are empty while nobody has it."""

    tenant_id = TextField(primary_key=True)
    holder = TextField()
    address = TextField()
    term = BigIntegerField()
    until_us = BigIntegerField()

    class Meta:
        table_name = "seats"


class ApiKey(Table):
    """An API key without its secret."""

    api_key_id = TextField(primary_key=True)
    name = TextField()
    secret_hash = BlobField(unique=True)
    #: The set of roles: bit n stands for role number n.
    roles = IntegerField()
    create_us = BigIntegerField()
    expire_us = BigIntegerField(null=True)
    revoke_us = BigIntegerField(null=True)

    class Meta:
        table_name = "api_keys"


class ApiKeyTenant(Table):
    """A tenant that a key acts for. An operator's key has none."""

    tenant_id = TextField()
    api_key_id = TextField(index=True)

    class Meta:
        table_name = "api_key_tenants"
        primary_key = CompositeKey("tenant_id", "api_key_id")


class WorkflowDefinition(Table):
    """One version of a workflow, immutable."""

    tenant_id = TextField()
    name = TextField()
    version = IntegerField()
    digest = TextField()
    task_count = IntegerField()
    dependency_count = IntegerField()
    create_us = BigIntegerField()
    created_by = TextField()
    canonical = BlobField()

    class Meta:
        table_name = "workflow_definitions"
        primary_key = CompositeKey("tenant_id", "name", "version")
        indexes = ((("tenant_id", "digest", "name"), True),)


class WorkflowRun(Table):
    """One execution of a workflow version."""

    tenant_id = TextField()
    run_id = TextField()
    workflow = TextField()
    workflow_version = IntegerField()
    workflow_digest = TextField()
    state = IntegerField()
    priority = IntegerField()
    labels = TextField()
    input = BlobField(null=True)
    input_type = TextField(null=True)
    correlation_id = TextField()
    started_by = TextField()
    reason = TextField()
    task_count = IntegerField()
    succeeded = IntegerField()
    failed = IntegerField()
    upstream_failed = IntegerField()
    cancelled = IntegerField()
    create_us = BigIntegerField()
    start_us = BigIntegerField(null=True)
    end_us = BigIntegerField(null=True)
    constitution_digest = TextField()
    skipped = IntegerField()
    parent_run_id = TextField()
    parent_task = TextField()
    deadline_us = BigIntegerField(null=True)
    detail = TextField(null=True)
    output = BlobField(null=True)
    output_type = TextField(null=True)

    class Meta:
        table_name = "workflow_runs"
        primary_key = CompositeKey("tenant_id", "run_id")
        indexes = (
            (("tenant_id", "state", "create_us", "run_id"), False),
            (("tenant_id", "workflow", "state", "create_us", "run_id"), False),
        )


# Few runs are started for another, and only those are looked for.
WorkflowRun.add_index(
    WorkflowRun.tenant_id,
    WorkflowRun.parent_run_id,
    WorkflowRun.create_us,
    WorkflowRun.run_id,
    where=WorkflowRun.parent_run_id != "",
    name="workflow_runs_parent_create_us_run_id",
)


class WorkflowTask(Table):
    """A task of a run that was leased at least once or has ended."""

    tenant_id = TextField()
    run_id = TextField()
    task_index = IntegerField()
    task_key = TextField()
    state = IntegerField()
    attempt = IntegerField()
    term = BigIntegerField()
    lost = IntegerField()
    agent = TextField()
    holder = TextField()
    token_hash = BlobField(null=True)
    lease_us = BigIntegerField(null=True)
    end_us = BigIntegerField(null=True)
    retry_us = BigIntegerField(null=True)
    result_hash = BlobField(null=True)
    failure_code = TextField(null=True)
    failure_message = TextField(null=True)
    output = BlobField(null=True)
    output_type = TextField(null=True)
    checkpoint = BlobField(null=True)
    checkpoint_type = TextField(null=True)
    detail = TextField(null=True)

    class Meta:
        table_name = "workflow_tasks"
        primary_key = CompositeKey("tenant_id", "run_id", "task_index")


class WorkflowExecutionLog(Table):
    """An event of a run; the log is append-only."""

    tenant_id = TextField()
    run_id = TextField()
    sequence = BigIntegerField()
    at_us = BigIntegerField()
    kind = IntegerField()
    task_key = TextField()
    attempt = IntegerField()
    term = BigIntegerField()
    agent = TextField()
    code = TextField()
    message = TextField()
    #: The evidence of the act that caused it. Null in runs older than evidence.
    entry_index = BigIntegerField(null=True)

    class Meta:
        table_name = "workflow_execution_log"
        primary_key = CompositeKey("tenant_id", "run_id", "sequence")


class RunTerm(Table):
    """A term under which a run is found; see `core.ledger.terms`."""

    tenant_id = TextField()
    run_id = TextField()
    term = TextField()
    #: The run's, so that the runs of a term have an order.
    create_us = BigIntegerField()

    class Meta:
        table_name = "run_terms"
        primary_key = CompositeKey("tenant_id", "run_id", "term")
        indexes = ((("tenant_id", "term", "create_us", "run_id"), False),)


class WorkflowWord(Table):
    """A word of a workflow's name."""

    tenant_id = TextField()
    word = TextField()
    name = TextField()

    class Meta:
        table_name = "workflow_words"
        primary_key = CompositeKey("tenant_id", "word", "name")


class EventTrigger(Table):
    """An event that starts runs of the newest version of a workflow."""

    tenant_id = TextField()
    event = TextField()
    workflow = TextField()
    version = IntegerField()

    class Meta:
        table_name = "event_triggers"
        primary_key = CompositeKey("tenant_id", "event", "workflow")


class Pause(Table):
    """A workflow that is paused; with an empty name the whole tenant."""

    tenant_id = TextField()
    workflow = TextField()
    reason = TextField()
    pause_us = BigIntegerField()
    paused_by = TextField()

    class Meta:
        table_name = "pauses"
        primary_key = CompositeKey("tenant_id", "workflow")


class Request(Table):
    """A mutation that was answered, so that its repetition gets the same answer."""

    tenant_id = TextField()
    request_id = TextField()
    method = TextField()
    digest = BlobField()
    response = BlobField()
    at_us = BigIntegerField(index=True)

    class Meta:
        table_name = "requests"
        primary_key = CompositeKey("tenant_id", "request_id")


class Constitution(Table):
    """One version of a tenant's constitution."""

    tenant_id = TextField()
    version = IntegerField()
    digest = TextField()
    canonical = BlobField()
    create_us = BigIntegerField()
    created_by = TextField()

    class Meta:
        table_name = "constitutions"
        primary_key = CompositeKey("tenant_id", "version")
