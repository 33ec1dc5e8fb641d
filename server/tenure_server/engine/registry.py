"""What is known of keys and workflows, kept so that the hot path reads no database."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tenure_server.core import records
from tenure_server.core.definition import WorkflowDefinition, parse
from tenure_server.core.graph import Graph

KEYS_MAX = 50_000
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

    def forget(self, matches: Callable[[K, V], bool]) -> None:
        """Forgets what matches."""
        for key in [key for key, value in self._items.items() if matches(key, value)]:
            del self._items[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownWorkflow:
    """A registered version, parsed."""

    record: records.Workflow
    definition: WorkflowDefinition
    graph: Graph

    @classmethod
    def of(cls, record: records.Workflow) -> KnownWorkflow:
        """Parses the canonical bytes of a record."""
        definition = parse(record.canonical)
        return cls(record=record, definition=definition, graph=definition.check())


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key as it was read, or that there is none, and when."""

    key: records.ApiKey | None
    read_us: int


class Registry:
    """Caches of keys by their hash and of workflow versions."""

    def __init__(self) -> None:
        self.keys: Recent[bytes, KnownKey] = Recent(KEYS_MAX)
        #: Validity by key id, for streams that ask at every message.
        self.keys_by_id: Recent[str, records.ApiKey] = Recent(KEYS_MAX)
        self.workflows: Recent[tuple[str, str, int], KnownWorkflow] = Recent(WORKFLOWS_MAX)
        self.digests: Recent[tuple[str, str], KnownWorkflow] = Recent(WORKFLOWS_MAX)
        #: The newest version of each workflow, exact while the seat is held here.
        self.newest: dict[tuple[str, str], int] = {}

    def learn_key(self, secret_hash: bytes, key: records.ApiKey | None, now_us: int) -> None:
        """Keeps what was read of a key."""
        self.keys.put(secret_hash, KnownKey(key, now_us))
        if key is not None:
            self.keys_by_id.put(key.api_key_id, key)

    def forget_key(self, key: records.ApiKey) -> None:
        """Keeps a key in its newest form, and forgets the older one."""
        self.keys.forget(lambda secret_hash, _: secret_hash == key.secret_hash)
        self.keys_by_id.put(key.api_key_id, key)

    def learn_workflow(self, known: KnownWorkflow) -> None:
        """Keeps a version."""
        record = known.record
        self.workflows.put((record.tenant_id, record.name, record.version), known)
        self.digests.put((record.tenant_id, record.digest), known)

    def learn_newest(self, tenant_id: str, name: str, version: int) -> None:
        """Notes a version; versions only grow, so a slow read cannot bring an older one back."""
        key = tenant_id, name
        self.newest[key] = max(version, self.newest.get(key, 0))

    def forget_tenant(self, tenant_id: str) -> None:
        """Forgets what was exact only while the seat was held."""
        for key in [key for key in self.newest if key[0] == tenant_id]:
            del self.newest[key]
