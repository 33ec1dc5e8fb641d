"""The tables of evidence: what the logs hold, and who signs for them."""

from __future__ import annotations

from peewee import BigIntegerField, BlobField, CompositeKey, IntegerField, TextField

from tenure_server.store.tables import Table


class EvidenceEntry(Table):
    """One act in a log; the tenant is empty for the installation's own. Append-only."""

    tenant_id = TextField()
    entry_index = BigIntegerField()
    at_us = BigIntegerField()
    kind = TextField()
    principal = TextField()
    correlation_id = TextField()
    #: 0 allowed, 1 warned of, 2 denied by an article, 3 refused otherwise.
    standing = IntegerField()
    entry = BlobField()
    #: The items as a JSON array, as `items.packed` gives it. Null: none.
    items = BlobField(null=True)
    #: What the articles were asked about, JSON. Not part of the log; may be pruned.
    facts = BlobField(null=True)

    class Meta:
        table_name = "evidence_entries"
        primary_key = CompositeKey("tenant_id", "entry_index")
        indexes = (
            (("tenant_id", "kind", "entry_index"), False),
            (("tenant_id", "correlation_id", "entry_index"), False),
            (("tenant_id", "at_us"), False),
        )


class EvidenceNode(Table):
    """A complete node of a log's tree."""

    tenant_id = TextField()
    level = IntegerField()
    position = BigIntegerField()
    hash = BlobField()

    class Meta:
        table_name = "evidence_nodes"
        primary_key = CompositeKey("tenant_id", "level", "position")


class EvidenceHead(Table):
    """Where a log ends."""

    tenant_id = TextField(primary_key=True)
    size = BigIntegerField()
    #: The size that this one followed: a change is a compare-and-set on it.
    previous = BigIntegerField()
    term = BigIntegerField()

    class Meta:
        table_name = "evidence_heads"


class EvidenceCheckpoint(Table):
    """A signed checkpoint."""

    tenant_id = TextField()
    size = BigIntegerField()
    note = TextField()
    create_us = BigIntegerField()

    class Meta:
        table_name = "evidence_checkpoints"
        primary_key = CompositeKey("tenant_id", "size")


class SigningKey(Table):
    """A public key of the installation: the root's verifier key, or a later one's certificate."""

    number = IntegerField(primary_key=True)
    text = TextField()

    class Meta:
        table_name = "signing_keys"
