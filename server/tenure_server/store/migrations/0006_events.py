"""Which events start runs of which workflows: of the newest version of each."""

from functools import partial

from peewee import CompositeKey, IntegerField, Model, SqliteDatabase, TextField


def up(migrator, db):
    sqlite = isinstance(db, SqliteDatabase)
    text = partial(TextField, collation=None if sqlite else '"C"')

    class EventTrigger(Model):
        tenant_id = text()
        event = text()
        workflow = text()
        version = IntegerField()

        class Meta:
            database = db
            legacy_table_names = False
            table_name = "event_triggers"
            table_settings = ["STRICT, WITHOUT ROWID"] if sqlite else None
            primary_key = CompositeKey("tenant_id", "event", "workflow")

    db.create_tables([EventTrigger], safe=False)
