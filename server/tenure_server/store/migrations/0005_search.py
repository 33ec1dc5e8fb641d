"""What runs are found by: terms of their labels and reasons, and words of workflow names.

A frozen copy of the models and of `core.ledger.terms` as they were then. What is there already is
given its terms here, a piece of the table at a time.
"""

import json
import re
from functools import partial

from peewee import (
    BigIntegerField,
    CompositeKey,
    IntegerField,
    Model,
    SqliteDatabase,
    TextField,
    Tuple,
    Value,
)

_WORD = re.compile(r"[^\W_]+")
_WORDS_MAX = _WORD_CHARACTERS_MAX = 64
_ENDED = (3, 4, 5, 8)
_RUNS_AT_ONCE = 1_000
_ROWS_AT_ONCE = 200


def up(migrator, db):
    sqlite = isinstance(db, SqliteDatabase)
    text = partial(TextField, collation=None if sqlite else '"C"')

    class Table(Model):
        class Meta:
            database = db
            legacy_table_names = False
            table_settings = ["STRICT, WITHOUT ROWID"] if sqlite else None

    class RunTerm(Table):
        tenant_id = text()
        run_id = text()
        term = text()
        create_us = BigIntegerField()

        class Meta:
            table_name = "run_terms"
            primary_key = CompositeKey("tenant_id", "run_id", "term")
            indexes = ((("tenant_id", "term", "create_us", "run_id"), False),)

    class WorkflowWord(Table):
        tenant_id = text()
        word = text()
        name = text()

        class Meta:
            table_name = "workflow_words"
            primary_key = CompositeKey("tenant_id", "word", "name")

    class WorkflowDefinition(Table):
        tenant_id = text()
        name = text()
        version = IntegerField()

        class Meta:
            table_name = "workflow_definitions"
            primary_key = CompositeKey("tenant_id", "name", "version")

    class WorkflowRun(Table):
        tenant_id = text()
        run_id = text()
        state = IntegerField()
        labels = text()
        reason = text()
        create_us = BigIntegerField()

        class Meta:
            table_name = "workflow_runs"
            primary_key = CompositeKey("tenant_id", "run_id")

    for table in (RunTerm, WorkflowWord):
        db.create_tables([table], safe=False)
    _add_words(WorkflowDefinition, WorkflowWord)
    _add_terms(WorkflowRun, RunTerm)


def _add_words(definition, word):
    named = definition.select(definition.tenant_id, definition.name).distinct().tuples()
    rows = [(tenant_id, one, name) for tenant_id, name in named for one in _words(name)]
    _insert(word, rows)


def _add_terms(run, term):
    after = ("", "")
    while found := list(_runs_behind(run, *after)):
        rows = []
        for tenant_id, run_id, state, labels, reason, create_us in found:
            terms = _terms(json.loads(labels), reason if state in _ENDED else "")
            rows += [(tenant_id, run_id, one, create_us) for one in terms]
        _insert(term, rows)
        after = found[-1][:2]


def _runs_behind(run, tenant_id, run_id):
    columns = (run.tenant_id, run.run_id, run.state, run.labels, run.reason, run.create_us)
    return (
        run.select(*columns)
        .where(Tuple(run.tenant_id, run.run_id) > Tuple(Value(tenant_id), Value(run_id)))
        .order_by(run.tenant_id, run.run_id)
        .limit(_RUNS_AT_ONCE)
        .tuples()
    )


def _insert(table, rows):
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        piece = rows[start : start + _ROWS_AT_ONCE]
        table.insert_many(piece, fields=table._meta.sorted_fields).execute()


def _terms(labels, reason):
    found = [f"k:{key}" for key in labels]
    found += [f"p{len(key)}:{key}={value}" for key, value in labels.items()]
    found = [term.replace("\0", "\N{REPLACEMENT CHARACTER}") for term in found]
    for texts in (list(labels.values()), [reason]):
        words = dict.fromkeys(word for text in texts for word in _words(text))
        found += [f"w:{word}" for word in list(words)[:_WORDS_MAX]]
    return dict.fromkeys(found)


def _words(text):
    found = (match[:_WORD_CHARACTERS_MAX] for match in _WORD.findall(text.casefold()))
    return list(dict.fromkeys(found))
