"""Logs of evidence, constitutions, and what runs and their events say of both.

A frozen copy of the models as they were then. Entries are rows of a table, not of its key's tree,
because they carry bytes; nodes are small and many, and lie in the tree. The installation's own log
begins here, so that two coordinators that write its first entry meet at a row.
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
    clustered = ["STRICT, WITHOUT ROWID"] if sqlite else None
    by_row = ["STRICT"] if sqlite else None

    class Table(Model):
        class Meta:
            database = db
            legacy_table_names = False
            table_settings = clustered

    class EvidenceEntry(Table):
        tenant_id = text()
        entry_index = BigIntegerField()
        at_us = BigIntegerField()
        kind = text()
        principal = text()
        correlation_id = text()
        standing = IntegerField()
        entry = BlobField()
        items = BlobField(null=True)
        facts = BlobField(null=True)

        class Meta:
            table_name = "evidence_entries"
            primary_key = CompositeKey("tenant_id", "entry_index")
            table_settings = by_row
            indexes = (
                (("tenant_id", "kind", "entry_index"), False),
                (("tenant_id", "correlation_id", "entry_index"), False),
                (("tenant_id", "at_us"), False),
            )

    class EvidenceNode(Table):
        tenant_id = text()
        level = IntegerField()
        position = BigIntegerField()
        hash = BlobField()

        class Meta:
            table_name = "evidence_nodes"
            primary_key = CompositeKey("tenant_id", "level", "position")

    class EvidenceHead(Table):
        tenant_id = text(primary_key=True)
        size = BigIntegerField()
        previous = BigIntegerField()
        term = BigIntegerField()

        class Meta:
            table_name = "evidence_heads"

    class EvidenceCheckpoint(Table):
        tenant_id = text()
        size = BigIntegerField()
        note = text()
        create_us = BigIntegerField()

        class Meta:
            table_name = "evidence_checkpoints"
            primary_key = CompositeKey("tenant_id", "size")
            table_settings = by_row

    class SigningKey(Table):
        number = IntegerField(primary_key=True)
        text = TextField(collation=None if sqlite else '"C"')

        class Meta:
            table_name = "signing_keys"
            table_settings = by_row

    class Constitution(Table):
        tenant_id = text()
        version = IntegerField()
        digest = text()
        canonical = BlobField()
        create_us = BigIntegerField()
        created_by = text()

        class Meta:
            table_name = "constitutions"
            primary_key = CompositeKey("tenant_id", "version")
            table_settings = by_row

    for table in (
        EvidenceEntry,
        EvidenceNode,
        EvidenceHead,
        EvidenceCheckpoint,
        SigningKey,
        Constitution,
    ):
        db.create_tables([table], safe=False)
    EvidenceHead.insert(tenant_id="", size=0, previous=0, term=0).execute()
    whole = "INTEGER" if sqlite else "BIGINT"
    texts = "TEXT" if sqlite else 'TEXT COLLATE "C"'
    for sql in (
        f"ALTER TABLE workflow_execution_log ADD COLUMN entry_index {whole}",
        f"ALTER TABLE workflow_runs ADD COLUMN constitution_digest {texts} NOT NULL DEFAULT ''",
    ):
        db.execute_sql(sql)
