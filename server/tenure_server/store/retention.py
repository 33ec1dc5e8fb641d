"""What is not kept for ever: payloads, old runs, and whole tenants.

Entries, nodes and checkpoints of a log stay when its runs are pruned, so that every proof of it
stays good: they hold digests only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peewee import fn

from tenure_evidence import tree
from tenure_server.core import errors
from tenure_server.core.ledger import lifecycle, records
from tenure_server.store import evidence_tables, rows, schema, tables
from tenure_server.store.backend import Database

_RUN_OPEN = sorted(int(state) for state in set(lifecycle.RunState) - lifecycle.RUN_ENDED)


_RUN = tables.WorkflowRun
_TASK = tables.WorkflowTask
_EVENT = tables.WorkflowExecutionLog
_TERM = tables.RunTerm
_ENTRY = evidence_tables.EvidenceEntry
_KEY = tables.ApiKey
_KEY_TENANT = tables.ApiKeyTenant


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What is known of a tenant that is gone."""

    #: Of its log.
    size: int
    root: bytes
    #: The keys that acted for it alone, which are gone too.
    keys: tuple[records.ApiKey, ...]


class Retention:
    """Forgets things, inside one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def prune_payloads(self, tenant_id: str, run_ids: Sequence[str]) -> None:
        """Forgets inputs, outputs and checkpoints of runs that have ended."""
        payloads = (_TASK.output, _TASK.output_type, _TASK.checkpoint, _TASK.checkpoint_type)
        self._run(
            _TASK.update(dict.fromkeys(payloads)).where(
                _TASK.tenant_id == tenant_id, _TASK.run_id.in_(run_ids)
            )
        )
        given = (_RUN.input, _RUN.input_type, _RUN.output, _RUN.output_type)
        self._run(
            _RUN.update(dict.fromkeys(given, None)).where(
                _RUN.tenant_id == tenant_id, _RUN.run_id.in_(run_ids)
            )
        )

    def prune_facts(self, tenant_id: str, indexes: Sequence[int]) -> None:
        """Forgets what articles were asked about; it is no part of the entries."""
        self._run(
            _ENTRY.update({_ENTRY.facts: None}).where(
                _ENTRY.tenant_id == tenant_id, _ENTRY.entry_index.in_(indexes)
            )
        )

    def prune_runs(self, tenant_id: str, run_ids: Sequence[str]) -> None:
        """Forgets runs that have ended, with their tasks and events."""
        for table in (_TASK, _EVENT, _TERM, _RUN):
            self._run(table.delete().where(table.tenant_id == tenant_id, table.run_id.in_(run_ids)))

    def erase_tenant(self, tenant_id: str) -> Erased:
        """Erases every row of a tenant. Raises NotFound, RunsOpen."""
        tenant = tables.Tenant
        if not self._rows(tenant.select(tenant.tenant_id).where(tenant.tenant_id == tenant_id)):
            raise errors.NotFound("tenant", tenant_id)
        [(open_runs,)] = self._rows(
            _RUN.select(fn.COUNT(_RUN.run_id)).where(
                _RUN.tenant_id == tenant_id, _RUN.state.in_(_RUN_OPEN)
            )
        )
        if open_runs:
            raise errors.RunsOpen(
                f"{open_runs} runs of tenant {tenant_id} have not ended: cancel them first",
                tenant_id=tenant_id,
            )
        size, root = self._end_of(tenant_id)
        keys = self._own_keys(tenant_id)
        # What refers to something goes before it.
        for table in reversed(schema.ALL):
            if "tenant_id" in table._meta.fields:
                same = table._meta.fields["tenant_id"] == tenant_id
                self._run(table.delete().where(same))
        if keys:
            self._run(_KEY.delete().where(_KEY.api_key_id.in_([key.api_key_id for key in keys])))
        return Erased(size=size, root=root, keys=keys)

    def _end_of(self, tenant_id: str) -> tuple[int, bytes]:
        """Size and root of a log; the root is empty when the log is broken."""
        head, node = evidence_tables.EvidenceHead, evidence_tables.EvidenceNode
        found = self._rows(head.select(head.size).where(head.tenant_id == tenant_id))
        size = int(found[0][0]) if found else 0
        nodes: dict[tree.Place, bytes] = {}
        for level, position in tree.frontier_nodes(size):
            query = node.select(node.hash).where(
                node.tenant_id == tenant_id, node.level == level, node.position == position
            )
            for (value,) in self._rows(query):
                nodes[level, position] = bytes(value)
        try:
            return size, tree.Frontier.restore(size, nodes).root()
        except KeyError:
            return size, b""

    def _own_keys(self, tenant_id: str) -> tuple[records.ApiKey, ...]:
        """The keys that act for this tenant and no other."""
        of = _KEY_TENANT.select(_KEY_TENANT.api_key_id)
        others = of.where(_KEY_TENANT.tenant_id != tenant_id)
        query = _KEY.select(*rows.API_KEY).where(
            _KEY.api_key_id.in_(of.where(_KEY_TENANT.tenant_id == tenant_id)),
            _KEY.api_key_id.not_in(others),
        )
        return tuple(rows.api_key(row, [tenant_id]) for row in self._rows(query))

    def _rows(self, query: Any) -> list[tuple[Any, ...]]:
        return self._database.execute(query).fetchall()

    def _run(self, query: Any) -> None:
        self._database.execute(query)
