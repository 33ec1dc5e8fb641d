"""The writes off the hot path: tenants, keys, workflow versions, and answers to remember."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import peewee
from peewee import fn

from tenure_server.core import errors
from tenure_server.core.ledger import records
from tenure_server.core.ledger.terms import words
from tenure_server.store import evidence_tables, rows, tables
from tenure_server.store.backend import Database
from tenure_server.store.retention import Erased, Retention

#: How long a seat that comes with a new tenant is held before its first renewal.
NEW_SEAT_US = 10_000_000


class Acts:
    """What can be done inside one transaction of `Writer.act`."""

    def __init__(
        self, database: Database, holder: str, address: str, clock_us: Callable[[int], int]
    ) -> None:
        self._database = database
        self._holder = holder
        self._address = address
        self._clock_us = clock_us
        #: Forgets what is not kept for ever.
        self.retention = Retention(database)
        #: Tenants that are gone when the transaction is committed.
        self.erased: list[str] = []

    def create_tenant(self, tenant: records.Tenant) -> None:
        """Makes a tenant, with this coordinator in its seat under term 1. Raises AlreadyExists."""
        insert = tables.Tenant.insert(rows.tenant_row(tenant)).on_conflict_ignore()
        if not self._database.rows_affected(self._database.execute(insert)):
            raise errors.AlreadyExists(
                f"there is a tenant {tenant.tenant_id} already", tenant_id=tenant.tenant_id
            )
        seat = records.Seat(
            tenant_id=tenant.tenant_id,
            holder=self._holder,
            address=self._address,
            term=1,
            until_us=self._clock_us(tenant.create_us) + NEW_SEAT_US,
        )
        self._insert(tables.Seat, rows.seat_row(seat))

    def update_tenant(self, tenant: records.Tenant) -> None:
        """Replaces a tenant's name, limits and weight. Raises NotFound."""
        table = tables.Tenant
        update = table.update(
            display_name=tenant.display_name, max_leases=tenant.max_leases, weight=tenant.weight
        ).where(table.tenant_id == tenant.tenant_id)
        if not self._database.rows_affected(self._database.execute(update)):
            raise errors.NotFound("tenant", tenant.tenant_id)

    def pause(self, tenant_id: str, pause: records.Pause) -> None:
        """Keeps that a workflow, or a tenant, is paused. One that is so already stays as it is."""
        row = {
            "tenant_id": tenant_id,
            "workflow": pause.workflow,
            "reason": pause.reason,
            "pause_us": pause.pause_us,
            "paused_by": pause.paused_by,
        }
        self._database.execute(tables.Pause.insert(row).on_conflict_ignore())

    def resume(self, tenant_id: str, workflow: str) -> None:
        """Forgets that a workflow, or with an empty name a tenant, is paused."""
        table = tables.Pause
        same = (table.tenant_id == tenant_id) & (table.workflow == workflow)
        self._database.execute(table.delete().where(same))

    def create_api_key(self, key: records.ApiKey) -> None:
        """Makes a key. Raises NotFound for a tenant that does not exist."""
        for tenant_id in key.tenant_ids:
            if not self._tenant_exists(tenant_id):
                raise errors.NotFound("tenant", tenant_id)
        self._insert(tables.ApiKey, rows.api_key_row(key))
        for tenant_id in key.tenant_ids:
            self._insert(
                tables.ApiKeyTenant, {"tenant_id": tenant_id, "api_key_id": key.api_key_id}
            )

    def revoke_api_key(self, api_key_id: str, now_us: int) -> records.ApiKey:
        """Revokes a key and gives it as it is now; twice is the same as once. Raises NotFound."""
        table = tables.ApiKey
        revoke = table.update(revoke_us=now_us).where(
            table.api_key_id == api_key_id, table.revoke_us.is_null()
        )
        self._database.execute(revoke)
        found = self._rows(table.select().where(table.api_key_id == api_key_id))
        if not found:
            raise errors.NotFound("API key", api_key_id)
        of = tables.ApiKeyTenant
        tenants = self._rows(of.select(of.tenant_id).where(of.api_key_id == api_key_id))
        return rows.api_key(found[0], [tenant_id for (tenant_id,) in tenants])

    def erase_tenant(self, tenant_id: str) -> Erased:
        """Erases every row of a tenant. Raises NotFound, RunsOpen."""
        self.erased.append(tenant_id)
        return self.retention.erase_tenant(tenant_id)

    def register_workflow(
        self,
        tenant_id: str,
        name: str,
        digest: str,
        canonical: bytes,
        task_count: int,
        dependency_count: int,
        created_by: str,
        now_us: int,
        events: Collection[str] = (),
    ) -> tuple[records.Workflow, bool]:
        """Makes the next version of a workflow, or finds the one that has this digest.

        Tells which of the two it was: True for a new version.
        """
        table = tables.WorkflowDefinition
        same = (table.tenant_id == tenant_id) & (table.name == name)
        found = self._rows(table.select(*rows.WORKFLOW).where(same, table.digest == digest))
        if found:
            return rows.workflow(found[0]), False
        [(newest,)] = self._rows(table.select(fn.MAX(table.version)).where(same))
        workflow = records.Workflow(
            tenant_id=tenant_id,
            name=name,
            version=(newest or 0) + 1,
            digest=digest,
            task_count=task_count,
            dependency_count=dependency_count,
            create_us=now_us,
            created_by=created_by,
            canonical=canonical,
        )
        self._insert(table, rows.workflow_row(workflow))
        self._find_workflow_by_words(tenant_id, name)
        self._start_by_events(workflow, events)
        return workflow, True

    def _start_by_events(self, workflow: records.Workflow, events: Collection[str]) -> None:
        """Has events start runs of this version, and no longer of those before."""
        table = tables.EventTrigger
        mine = (table.tenant_id == workflow.tenant_id) & (table.workflow == workflow.name)
        if workflow.version > 1:
            self._database.execute(table.delete().where(mine))
        for event in sorted(set(events)):
            row = {
                "tenant_id": workflow.tenant_id,
                "event": event,
                "workflow": workflow.name,
                "version": workflow.version,
            }
            self._insert(table, row)

    def _find_workflow_by_words(self, tenant_id: str, name: str) -> None:
        """Has runs of a workflow found by the words of its name."""
        table = tables.WorkflowWord
        found = [{"tenant_id": tenant_id, "word": word, "name": name} for word in words(name)]
        if found:
            self._database.execute(table.insert_many(found).on_conflict_ignore())

    def set_constitution(
        self, tenant_id: str, digest: str, canonical: bytes, created_by: str, now_us: int
    ) -> tuple[records.ConstitutionVersion, bool]:
        """Makes the next version of a tenant's constitution, or finds the newest if it is the same.

        Tells which of the two it was: True for a new version.
        """
        table = tables.Constitution
        newest = (
            table.select(*rows.CONSTITUTION)
            .where(table.tenant_id == tenant_id)
            .order_by(table.version.desc())
            .limit(1)
        )
        found = self._rows(newest)
        known = rows.constitution(found[0]) if found else None
        if known is not None and known.digest == digest:
            return known, False
        version = records.ConstitutionVersion(
            tenant_id=tenant_id,
            version=1 if known is None else known.version + 1,
            digest=digest,
            canonical=canonical,
            create_us=now_us,
            created_by=created_by,
        )
        self._insert(table, rows.constitution_row(version))
        return version, True

    def remember(self, tenant_id: str, request_id: str, answer: records.Answer, at_us: int) -> None:
        """Keeps the answer to a mutation; `tenant_id` is empty for one of the installation."""
        self._insert(
            tables.Request,
            {
                "tenant_id": tenant_id,
                "request_id": request_id,
                "method": answer.method,
                "digest": answer.digest,
                "response": answer.response,
                "at_us": at_us,
            },
        )

    def forget_answers(self, before_us: int, at_most: int) -> int:
        """Forgets old answers of tenants whose seats are held here, and tells how many."""
        table, seat = tables.Request, tables.Seat
        mine = seat.select(seat.tenant_id).where(seat.holder == self._holder)
        old = (
            table.select(table.tenant_id, table.request_id)
            .where(table.at_us < before_us, (table.tenant_id == "") | table.tenant_id.in_(mine))
            .order_by(table.at_us)
            .limit(at_most)
        )
        found = self._rows(old)
        if found:
            keys = peewee.Tuple(table.tenant_id, table.request_id)
            query = table.delete().where(keys.in_(peewee.ValuesList(found)))
            self._database.execute(query)
        return len(found)

    def add_signing_keys(self, chain: Sequence[str], known: int) -> list[str]:
        """Adds the keys behind the first `known`, and gives all that are there now.

        Those of another coordinator that was faster are left as they are.
        """
        table = evidence_tables.SigningKey
        new = [
            {"number": number, "text": text}
            for number, text in enumerate(chain[known:], start=known + 1)
        ]
        self._database.execute(table.insert_many(new).on_conflict_ignore())
        found = self._rows(table.select(table.text).order_by(table.number))
        return [text for (text,) in found]

    def add_checkpoints(self, checkpoints: Sequence[records.Checkpoint]) -> None:
        """Keeps signed checkpoints; one of the same size is left as it is."""
        table = evidence_tables.EvidenceCheckpoint
        found = [rows.checkpoint_row(checkpoint) for checkpoint in checkpoints]
        self._database.execute(table.insert_many(found).on_conflict_ignore())

    def _tenant_exists(self, tenant_id: str) -> bool:
        table = tables.Tenant
        return bool(self._rows(table.select(table.tenant_id).where(table.tenant_id == tenant_id)))

    def _insert(self, table: type[tables.Table], row: dict[str, Any]) -> None:
        self._database.execute(table.insert(row))

    def _rows(self, query: Any) -> list[tuple[Any, ...]]:
        return self._database.execute(query).fetchall()
