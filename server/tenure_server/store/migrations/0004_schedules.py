"""Schedules, how far each has come, and what became of their fires.

A frozen copy of the models as they were then. What was asked for and how far it has come are two
tables, because the one may carry an input of a megabyte and the other changes with every fire.
"""

from functools import partial

from peewee import (
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

    class Table(Model):
        class Meta:
            database = db
            legacy_table_names = False
            table_settings = ["STRICT"] if sqlite else None

    class Schedule(Table):
        tenant_id = text()
        name = text()
        workflow = text()
        content = BlobField()
        input = BlobField(null=True)
        input_type = text(null=True)
        create_us = BigIntegerField()
        created_by = text()
        update_us = BigIntegerField()

        class Meta:
            table_name = "schedules"
            primary_key = CompositeKey("tenant_id", "name")

    class ScheduleStanding(Table):
        tenant_id = text()
        name = text()
        term = BigIntegerField()
        standing = BlobField()

        class Meta:
            table_name = "schedule_standings"
            primary_key = CompositeKey("tenant_id", "name")

    class ScheduleFire(Table):
        tenant_id = text()
        name = text()
        number = BigIntegerField()
        nominal_us = BigIntegerField()
        at_us = BigIntegerField()
        cause = IntegerField()
        outcome = IntegerField()
        times = IntegerField()
        run_id = text(null=True)
        code = text()
        message = text()

        class Meta:
            table_name = "schedule_fires"
            primary_key = CompositeKey("tenant_id", "name", "number")

    for table in (Schedule, ScheduleStanding, ScheduleFire):
        db.create_tables([table], safe=False)
