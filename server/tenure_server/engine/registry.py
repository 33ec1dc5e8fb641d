"""What is known of workflows, kept so that the hot path reads no database."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson

from tenure_constitution import definitions
from tenure_server.core import errors
from tenure_server.core.definitions.definition import WorkflowDefinition, digest_of, parse
from tenure_server.core.definitions.graph import Graph
from tenure_server.core.ledger import records

WORKFLOWS_MAX = 2_000

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A dictionary that forgets what was used longest ago."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._items: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value, which counts as used now."""
        value = self._items.get(key)
        if value is not None:
            self._items.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Keeps a value."""
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > self._size_max:
            self._items.popitem(last=False)

    def forget(self, which: Callable[[K], bool]) -> None:
        """Forgets the values under some keys."""
        for key in [key for key in self._items if which(key)]:
            del self._items[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownWorkflow:
    """A registered version, parsed."""

    record: records.Workflow
    definition: WorkflowDefinition
    graph: Graph
    #: What articles may look at under ``workflow``.
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, record: records.Workflow) -> KnownWorkflow:
        """Parses the canonical bytes of a record.

        Raises DefinitionChanged when they are not those that were registered.
        """
        if record_changed(record):
            name = f"{record.name} version {record.version}"
            raise errors.DefinitionChanged(
                f"the stored definition of workflow {name} does not have its digest",
                workflow=record.name,
                digest=record.digest,
            )
        definition = parse(record.canonical)
        return cls(
            record=record,
            definition=definition,
            graph=definition.graph(),
            facts=definitions.facts_of(orjson.loads(record.canonical)),
        )


def record_changed(record: records.Workflow) -> bool:
    """Whether a stored definition is not the one that was registered any more."""
    return digest_of(record.canonical) != record.digest


class Registry:
    """Caches of workflow versions."""

    def __init__(self) -> None:
        self.workflows: Recent[tuple[str, str, int], KnownWorkflow] = Recent(WORKFLOWS_MAX)
        self.digests: Recent[tuple[str, str], KnownWorkflow] = Recent(WORKFLOWS_MAX)
        #: The newest version of each workflow, exact while the seat is held here.
        self.newest: dict[tuple[str, str], int] = {}

    def learn_workflow(self, known: KnownWorkflow) -> None:
        """Keeps a version."""
        record = known.record
        self.workflows.put((record.tenant_id, record.name, record.version), known)
        self.digests.put((record.tenant_id, record.digest), known)

    def learn_newest(self, tenant_id: str, name: str, version: int) -> None:
        """Notes a version; versions only grow, so a slow read cannot bring an older one back."""
        key = tenant_id, name
        self.newest[key] = max(version, self.newest.get(key, 0))

    def erase_tenant(self, tenant_id: str) -> None:
        """Forgets everything of a tenant."""
        self.forget_tenant(tenant_id)
        self.workflows.forget(lambda key: key[0] == tenant_id)
        self.digests.forget(lambda key: key[0] == tenant_id)

    def forget_tenant(self, tenant_id: str) -> None:
        """Forgets what was exact only while the seat was held."""
        for key in [key for key in self.newest if key[0] == tenant_id]:
            del self.newest[key]
