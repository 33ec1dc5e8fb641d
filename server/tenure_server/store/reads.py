"""Reading, inside `Store.reading`: the installation's tables, and one tenant's.

`TenantReads` is the only way to a tenant's workflows, runs, tasks and events. It hands its tenant
to every query by itself and refuses to run one that does not ask for it; nobody above can leave it
out or swap it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import groupby
from operator import itemgetter
from typing import Any

from peewee import CTE, JOIN, Node, Tuple, Value, ValuesList, fn

from tenure_server.core.definitions.definition import Payload
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import RunState
from tenure_server.core.seeing.filters import RunFilter
from tenure_server.store import evidence_tables, rows, statements, tables
from tenure_server.store import tenant_queries as queries
from tenure_server.store.database import Store
from tenure_server.store.run_search import RunSearch

_slot = statements.slot

_TENANT = tables.Tenant
_KEY = tables.ApiKey
_KEY_TENANT = tables.ApiKeyTenant
_SEAT = tables.Seat
_REQUEST = tables.Request

_VERSION_MAX = (1 << 31) - 1
_BUNDLE_TASKS = 20_000

_TENANT_ONE = _TENANT.select(*rows.TENANT).where(_TENANT.tenant_id == _slot("tenant_id"))
_TENANTS = (
    _TENANT.select(*rows.TENANT)
    .where(_TENANT.tenant_id > _slot("after"))
    .order_by(_TENANT.tenant_id)
    .limit(_slot("limit"))
)
_SEAT_ONE = _SEAT.select(*rows.SEAT).where(_SEAT.tenant_id == _slot("tenant_id"))
_SEATS = _SEAT.select(*rows.SEAT).order_by(_SEAT.tenant_id)
_KEY_AND_TENANTS = _KEY.select(*rows.API_KEY, _KEY_TENANT.tenant_id).join(
    _KEY_TENANT, JOIN.LEFT_OUTER, on=(_KEY_TENANT.api_key_id == _KEY.api_key_id)
)
_KEY_BY_HASH = _KEY_AND_TENANTS.where(_KEY.secret_hash == _slot("secret_hash"))
_KEY_BY_ID = _KEY_AND_TENANTS.where(_KEY.api_key_id == _slot("api_key_id"))
_SIGNING_KEYS = evidence_tables.SigningKey.select(evidence_tables.SigningKey.text).order_by(
    evidence_tables.SigningKey.number
)
_KEY_ANY = _KEY.select(Value(1)).limit(1)
_KEYS_OF_NOBODY = _KEY.select(_KEY.api_key_id).where(
    ~fn.EXISTS(_KEY_TENANT.select(Value(1)).where(_KEY_TENANT.api_key_id == _KEY.api_key_id))
)
_KEYS_OF_TENANT = (
    _KEY.select(_KEY.api_key_id)
    .join(_KEY_TENANT, on=(_KEY_TENANT.api_key_id == _KEY.api_key_id))
    .where(_KEY_TENANT.tenant_id == _slot("tenant_id"))
)


class Reads:
    """Reads what belongs to the installation. Raises StoreFailed through `Store.reading`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def tenant(self, tenant_id: str) -> records.Tenant | None:
        """One tenant."""
        found = self._rows(_TENANT_ONE, tenant_id=tenant_id)
        return rows.tenant(found[0]) if found else None

    def tenants(
        self, after: str, limit: int, only: Sequence[str] | None = None
    ) -> list[records.Tenant]:
        """Tenants by id, from behind `after` on: all of them, or only those named."""
        if only is None:
            return [rows.tenant(row) for row in self._rows(_TENANTS, after=after, limit=limit)]
        found: list[records.Tenant] = []
        for piece in statements.pieces(sorted({name for name in only if name > after})):
            query = _tenants_named(len(piece))
            found += [rows.tenant(row) for row in self._rows(query, tenant_ids=piece)]
            if len(found) >= limit:
                break
        return found[:limit]

    def seat(self, tenant_id: str) -> records.Seat | None:
        """Who decides for a tenant. Holder and address are empty while nobody does."""
        found = self._rows(_SEAT_ONE, tenant_id=tenant_id)
        return rows.seat(found[0]) if found else None

    def seats(self) -> list[records.Seat]:
        """Who decides for each tenant."""
        return [rows.seat(row) for row in self._rows(_SEATS)]

    def signing_keys(self) -> list[str]:
        """The public chain: the root's verifier key, and the certificates of the later ones."""
        return [text for (text,) in self._rows(_SIGNING_KEYS)]

    def has_api_keys(self) -> bool:
        """Whether there is any key at all, revoked ones counted."""
        return bool(self._rows(_KEY_ANY))

    def api_key_by_hash(self, secret_hash: bytes) -> records.ApiKey | None:
        """The key whose secret has this SHA-256, valid or not."""
        return _one_key(self._rows(_KEY_BY_HASH, secret_hash=secret_hash))

    def api_key(self, api_key_id: str) -> records.ApiKey | None:
        """One key, valid or not."""
        return _one_key(self._rows(_KEY_BY_ID, api_key_id=api_key_id))

    def api_keys(
        self, tenant_id: str, after: tuple[int, str] | None, limit: int
    ) -> list[records.ApiKey]:
        """Keys that act for a tenant, the oldest first, from behind `after` (create_us, id) on.

        An empty `tenant_id` asks for keys that act for no tenant: the operators'.
        """
        create_us, api_key_id = after or (-1, "")
        query = _keys_page(bool(tenant_id))
        found = self._rows(
            query, tenant_id=tenant_id, create_us=create_us, api_key_id=api_key_id, limit=limit
        )
        return [_key_of(group) for _, group in groupby(found, key=itemgetter(0))]

    def answers(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], records.Answer]:
        """What was answered to these mutations (tenant id, request id), as far as any was."""
        found: dict[tuple[str, str], records.Answer] = {}
        for piece in statements.pieces(pairs):
            tenant_ids, request_ids = zip(*piece, strict=True)
            query = _answers_to(len(piece))
            for row in self._rows(query, tenant_ids=tenant_ids, request_ids=request_ids):
                found[row[0], row[1]] = rows.answer(row)
        return found

    def _rows(self, query: Node, **values: Any) -> list[tuple[Any, ...]]:
        return self._store.rows(query, values)


class TenantReads:
    """Reads what belongs to one tenant. Raises StoreFailed through `Store.reading`."""

    def __init__(self, store: Store, tenant_id: str) -> None:
        self._store = store
        self._tenant_id = tenant_id

    def workflow(self, name: str, version: int = 0) -> records.Workflow | None:
        """A version of a workflow with its canonical bytes; version 0 is the newest."""
        if version:
            found = self._rows(queries.WORKFLOW_VERSION, name=name, version=version)
        else:
            found = self._rows(queries.WORKFLOW_NEWEST, name=name)
        return rows.workflow(found[0]) if found else None

    def workflow_by_digest(self, digest: str) -> records.Workflow | None:
        """A workflow with this digest, with its canonical bytes."""
        found = self._rows(queries.WORKFLOW_BY_DIGEST, digest=digest)
        return rows.workflow(found[0]) if found else None

    def workflows(self, after_name: str, limit: int) -> list[records.Workflow]:
        """The newest version of each workflow, by name, from behind `after_name` on."""
        found = self._rows(queries.WORKFLOWS, after_name=after_name, limit=limit)
        return [rows.workflow(row) for row in found]

    def versions(self, name: str, before_version: int | None, limit: int) -> list[records.Workflow]:
        """The versions of a workflow, the newest first, from below `before_version` on."""
        before = _VERSION_MAX if before_version is None else before_version
        found = self._rows(queries.VERSIONS, name=name, before_version=before, limit=limit)
        return [rows.workflow(row) for row in found]

    def constitution(self, version: int = 0) -> records.ConstitutionVersion | None:
        """A version of the tenant's constitution, the newest for 0."""
        if not version:
            newest = self.constitutions(None, 1)
            return newest[0] if newest else None
        found = self._rows(queries.CONSTITUTION_ONE, version=version)
        return rows.constitution(found[0]) if found else None

    def constitutions(
        self, before_version: int | None, limit: int
    ) -> list[records.ConstitutionVersion]:
        """The versions of the tenant's constitution, the newest first, from below a version on."""
        before = _VERSION_MAX if before_version is None else before_version
        found = self._rows(queries.CONSTITUTIONS, before_version=before, limit=limit)
        return [rows.constitution(row) for row in found]

    def run(self, run_id: str) -> records.Run | None:
        """A run with its input."""
        found = self._rows(queries.RUN_ONE, run_id=run_id)
        return rows.run(found[0]) if found else None

    def runs(
        self,
        workflow: str | None,
        states: Sequence[RunState],
        before: tuple[int, str] | None,
        limit: int,
    ) -> list[records.Run]:
        """Runs without their inputs, the newest first, from before `before` (create_us, run_id) on.

        Only those of a workflow, and only those in certain states, where these are given.
        """
        wanted = RunFilter(workflow=workflow or "", states=frozenset(states))
        return RunSearch(self._store, self._tenant_id).page(wanted, before, limit).runs

    def run_ids_open(self) -> list[str]:
        """The runs that have not ended."""
        return [run_id for run_id, _ in self._rows(queries.RUN_IDS_OPEN)]

    def task(self, run_id: str, task_index: int) -> records.Task | None:
        """A task with its output, or None when it has no row yet."""
        found = self._rows(queries.TASK_ONE, run_id=run_id, task_index=task_index)
        return rows.task(found[0]) if found else None

    def tasks(
        self, run_id: str, after_index: int, limit: int, with_output: bool = False
    ) -> list[records.Task]:
        """The tasks of a run that have rows, in order, from behind `after_index` (-1: all) on.

        Without `with_output` they come without outputs and checkpoints.
        """
        query = queries.TASKS_PAYLOADS if with_output else queries.TASKS
        found = self._rows(query, run_id=run_id, after_index=after_index, limit=limit)
        return [rows.task(row) for row in found]

    def outputs(self, run_id: str, indexes: Sequence[int]) -> dict[int, Payload]:
        """What these tasks of a run put out; tasks without an output are left out."""
        found: dict[int, Payload] = {}
        for piece in statements.pieces(indexes):
            query = queries.outputs(len(piece))
            for index, data, content_type in self._rows(query, run_id=run_id, indexes=piece):
                found[index] = Payload(data, content_type or "")
        return found

    def events(
        self, run_id: str, after_sequence: int, limit: int, run_events_only: bool = False
    ) -> list[records.Event]:
        """The log of a run from behind a sequence number on."""
        query = queries.RUN_EVENTS if run_events_only else queries.EVENTS
        found = self._rows(query, run_id=run_id, after_sequence=after_sequence, limit=limit)
        return [rows.event(row) for row in found]

    def last_sequence(self, run_id: str) -> int:
        """The number of the newest event of a run; 0 when there is none."""
        [(sequence,)] = self._rows(queries.LAST_SEQUENCE, run_id=run_id)
        return sequence or 0

    def open_runs(self) -> list[records.Run]:
        """The runs that have not ended, the oldest first, with their inputs."""
        return [rows.run(row) for row in self._rows(queries.RUNS_OPEN)]

    def open_tasks(self) -> Iterator[records.Task]:
        """All tasks with rows of all runs that have not ended, for taking up work again.

        Outputs are left out, and the checkpoints of ended tasks. Goes through the runs a piece at a
        time, so that it never holds more than some ten thousand tasks.
        """
        for run_ids in _bundles(self._rows(queries.RUN_IDS_OPEN)):
            for piece in statements.pieces(run_ids):
                query = queries.tasks_of_runs(len(piece))
                yield from map(rows.task, self._rows(query, run_ids=piece))

    def event_triggers(self, event: str) -> list[tuple[str, int]]:
        """The workflows, with their newest version, of which an event starts runs."""
        return [(row[0], row[1]) for row in self._rows(queries.EVENT_TRIGGERS, event=event)]

    def pauses(self) -> dict[str, records.Pause]:
        """The workflows that are paused, by name; under an empty one the whole tenant."""
        found = map(rows.pause, self._rows(queries.PAUSES))
        return {pause.workflow: pause for pause in found}

    def is_pruned(self, run_id: str) -> bool:
        """Whether the payloads of a run were forgotten."""
        return bool(self._rows(queries.RUN_PRUNED, run_id=run_id))

    def last_sequences(self) -> dict[str, int]:
        """The number of the newest event of each run that has not ended."""
        return {run_id: last or 0 for run_id, last in self._rows(queries.LAST_SEQUENCES)}

    def request_ids(self, after: str, limit: int) -> list[tuple[str, int]]:
        """Ids of mutations whose answers are kept, in order from behind `after` on, and when."""
        return [
            (row[0], row[1]) for row in self._rows(queries.REQUEST_IDS, after=after, limit=limit)
        ]

    def _rows(self, query: Node, **values: Any) -> list[tuple[Any, ...]]:
        return self._store.rows(query, {**values, "tenant_id": self._tenant_id}, needs="tenant_id")


def _bundles(found: Iterable[tuple[str, int]]) -> Iterator[list[str]]:
    """Bundles runs (id, number of tasks) of some `_BUNDLE_TASKS` tasks together."""
    bundle: list[str] = []
    tasks = 0
    for run_id, task_count in found:
        bundle.append(run_id)
        tasks += task_count
        if tasks >= _BUNDLE_TASKS:
            yield bundle
            bundle, tasks = [], 0
    yield bundle


@cache
def _tenants_named(length: int) -> Node:
    names = statements.slots("tenant_ids", length)
    return (
        _TENANT.select(*rows.TENANT).where(_TENANT.tenant_id.in_(names)).order_by(_TENANT.tenant_id)
    )


@cache
def _keys_page(of_tenant: bool) -> Node:
    place = Tuple(_KEY.create_us, _KEY.api_key_id)
    page = (
        (_KEYS_OF_TENANT if of_tenant else _KEYS_OF_NOBODY)
        .where(place > Tuple(_slot("create_us"), _slot("api_key_id")))
        .order_by(_KEY.create_us, _KEY.api_key_id)
        .limit(_slot("limit"))
    )
    return _KEY_AND_TENANTS.where(_KEY.api_key_id.in_(page)).order_by(
        _KEY.create_us, _KEY.api_key_id
    )


@cache
def _answers_to(length: int) -> Node:
    pairs = zip(
        statements.slots("tenant_ids", length), statements.slots("request_ids", length), strict=True
    )
    # A join, because older versions of SQLite do not use the key for pairs in a list.
    asked = CTE("asked", ValuesList(list(pairs)), columns=("tenant_id", "request_id"))
    return (
        _REQUEST.select(*rows.ANSWER)
        .join(
            asked,
            on=(_REQUEST.tenant_id == asked.c.tenant_id)
            & (_REQUEST.request_id == asked.c.request_id),
        )
        .with_cte(asked)
    )


def _one_key(found: list[tuple[Any, ...]]) -> records.ApiKey | None:
    return _key_of(found) if found else None


def _key_of(group: Any) -> records.ApiKey:
    found = list(group)
    width = len(rows.API_KEY)
    return rows.api_key(found[0], [row[width] for row in found if row[width] is not None])
