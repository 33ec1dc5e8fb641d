"""The tables of schedules: what was asked, how far they have come, and what became of fires."""

from __future__ import annotations

from peewee import BigIntegerField, BlobField, CompositeKey, IntegerField, TextField

from tenure_server.store.tables import Table


class Schedule(Table):
    """What was asked of a schedule; changes when people change it."""

    tenant_id = TextField()
    name = TextField()
    workflow = TextField()
    #: All but the input, as JSON.
    content = BlobField()
    input = BlobField(null=True)
    input_type = TextField(null=True)
    create_us = BigIntegerField()
    created_by = TextField()
    update_us = BigIntegerField()

    class Meta:
        table_name = "schedules"
        primary_key = CompositeKey("tenant_id", "name")


class ScheduleStanding(Table):
    """How far a schedule has come; changes with every fire."""

    tenant_id = TextField()
    name = TextField()
    #: The seat's, under which it was written.
    term = BigIntegerField()
    #: As JSON.
    standing = BlobField()

    class Meta:
        table_name = "schedule_standings"
        primary_key = CompositeKey("tenant_id", "name")


class ScheduleFire(Table):
    """What became of a fire: the newest lines of each schedule."""

    tenant_id = TextField()
    name = TextField()
    number = BigIntegerField()
    nominal_us = BigIntegerField()
    at_us = BigIntegerField()
    cause = IntegerField()
    outcome = IntegerField()
    #: So many fires, the first of which is named; more than one only where they were missed.
    times = IntegerField()
    #: The run that was started. Null: none was.
    run_id = TextField(null=True)
    code = TextField()
    message = TextField()

    class Meta:
        table_name = "schedule_fires"
        primary_key = CompositeKey("tenant_id", "name", "number")
