"""Which workflows are paused, and under an empty name the whole tenant."""

from functools import partial

from peewee import BigIntegerField, CompositeKey, Model, SqliteDatabase, TextField


def up(migrator, db):
    sqlite = isinstance(db, SqliteDatabase)
    text = partial(TextField, collation=None if sqlite else '"C"')

    class Pause(Model):
        tenant_id = text()
        workflow = text()
        reason = text()
        pause_us = BigIntegerField()
        paused_by = text()

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "pauses"
            table_settings = ["STRICT, WITHOUT ROWID"] if sqlite else None
            primary_key = CompositeKey("tenant_id", "workflow")

    db.create_tables([Pause], safe=False)
