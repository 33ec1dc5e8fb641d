"""Workflow versions: registered once, known from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from tenure_constitution import definitions
from tenure_constitution.judge import Objection
from tenure_server.core import errors
from tenure_server.core.definitions.definition import WorkflowDefinition, digest_of
from tenure_server.core.definitions.graph import Graph
from tenure_server.core.ledger import records
from tenure_server.engine import starting
from tenure_server.engine.court import Court, as_words
from tenure_server.engine.registry import KnownWorkflow, Registry
from tenure_server.store.database import Store
from tenure_server.store.reads import TenantReads


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A definition that was checked, and what can be told of it."""

    graph: Graph
    canonical: bytes
    #: What articles may look at under ``workflow``.
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, definition: WorkflowDefinition) -> Examined:
        """Checks a definition, which may take a while. Raises FieldsInvalid, GraphInvalid."""
        graph = definition.check()
        canonical = definition.canonical()
        return cls(
            graph=graph,
            canonical=canonical,
            facts=definitions.facts_of(orjson.loads(canonical)),
        )

    @property
    def digest(self) -> str:
        """The identity of the definition."""
        return digest_of(self.canonical)


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """What became of a registration."""

    known: KnownWorkflow
    #: False: this very content was there already.
    created: bool
    warnings: tuple[Objection, ...]


class Workflows:
    """The versions of every tenant whose seat is held here, read at most once."""

    def __init__(
        self,
        store: Store,
        court: Court,
        *,
        read: Callable[..., Awaitable[KnownWorkflow | None]],
        mutate: Callable[..., Awaitable[bytes]],
        now_us: Callable[[], int],
        decided_here: Callable[[str], bool],
    ) -> None:
        self._store = store
        self._court = court
        self._read = read
        self._mutate = mutate
        self._now_us = now_us
        self._decided_here = decided_here
        self._registry = Registry()

    async def known(self, tenant_id: str, name: str, version: int) -> KnownWorkflow:
        """A registered version, the newest for 0. Raises NotFound, DefinitionChanged."""
        registry = self._registry
        number = version or registry.newest.get((tenant_id, name), 0)
        known = registry.workflows.get((tenant_id, name, number)) if number else None
        if known is not None:
            return known

        def read() -> KnownWorkflow | None:
            record = TenantReads(self._store, tenant_id).workflow(name, version)
            return None if record is None else KnownWorkflow.of(record)

        known = await self._read(read)
        if known is None:
            raise errors.NotFound("workflow", f"{name} version {version}" if version else name)
        registry.learn_workflow(known)
        if not version and self._decided_here(tenant_id):
            registry.learn_newest(tenant_id, name, known.record.version)
        return known

    async def by_digest(self, tenant_id: str, digest: str) -> KnownWorkflow:
        """A registered version by its digest. Raises NotFound, DefinitionChanged."""
        known = self._registry.digests.get((tenant_id, digest))
        if known is not None:
            return known

        def read() -> KnownWorkflow | None:
            record = TenantReads(self._store, tenant_id).workflow_by_digest(digest)
            return None if record is None else KnownWorkflow.of(record)

        known = await self._read(read)
        if known is None:
            raise errors.NotFound("workflow", digest)
        self._registry.learn_workflow(known)
        return known

    async def register(
        self,
        origin: records.Origin,
        definition: WorkflowDefinition,
        request: records.Request | None,
    ) -> Registered:
        """Registers a definition; the same content again is the same version.

        Raises FieldsInvalid, GraphInvalid, ActDenied, RequestIdReused, SeatElsewhere.
        """
        tenant_id = origin.tenant_id
        examined = await asyncio.to_thread(Examined.of, definition)
        act = origin.acting("workflow.register")
        warnings: list[dict[str, str]] = []

        def judge() -> None:
            objections = self._court.registration(origin, act, examined.facts)
            warnings.extend(map(as_words, objections))

        async def note(answer: bytes | None) -> None:
            if answer is None:
                self._registry.newest.pop((tenant_id, definition.name), None)
            else:
                version, _, _ = starting.parse_registration(answer)
                self._registry.learn_newest(tenant_id, definition.name, version)

        work = starting.registration(
            origin, definition, examined.graph, examined.canonical, self._now_us(), act, warnings
        )
        answer = await self._mutate(
            tenants=[tenant_id],
            remember_under=tenant_id,
            request=request,
            work=work,
            afterwards=note,
            act=act,
            before=judge,
        )
        version, created, warned = starting.parse_registration(answer)
        known = await self.known(tenant_id, definition.name, version)
        return Registered(known=known, created=created, warnings=warned)

    def objections(
        self, origin: records.Origin, roles: tuple[str, ...], examined: Examined
    ) -> tuple[Objection, ...]:
        """What the constitution has against registering a definition."""
        return self._court.would_register(origin, roles, examined.facts)

    def erase(self, tenant_id: str) -> None:
        """Forgets everything of a tenant that is gone."""
        self._registry.erase_tenant(tenant_id)

    def forget(self, tenant_id: str) -> None:
        """Forgets what was exact only while the seat was held."""
        self._registry.forget_tenant(tenant_id)
