"""Large payloads by reference: what travels instead of them says where they lie and what they are.

A payload of type `CONTENT_TYPE` is JSON: ``{"uri": …, "sha256": …, "bytes": …}``, and
``"content_type"`` where what it stands for is not JSON. Handlers never see one: before they begin
it is fetched and compared with its digest, and what they return is stored when it is large.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from tenure.v1 import agents_pb2, payload_pb2
from tenure_agent.payloads import PAYLOAD_BYTES_MAX
from tenure_agent.stores import PayloadStore, StoreError, digest_of

CONTENT_TYPE = "application/vnd.tenure.reference+json"
#: Failure codes: the store or the payload in it cannot be reached; it is not what it was.
UNREACHABLE, CORRUPT = "PAYLOAD_UNREACHABLE", "PAYLOAD_CORRUPT"


class ReferenceFailed(Exception):  # noqa: N818 - named for what happened
    """A payload could not be fetched or kept. `code` is for programs."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What is known of a payload that lies elsewhere."""

    uri: str
    sha256: str
    size: int
    content_type: str = ""

    def payload(self) -> payload_pb2.Payload:
        """What travels."""
        value: dict[str, str | int] = {"uri": self.uri, "sha256": self.sha256, "bytes": self.size}
        if self.content_type:
            value["content_type"] = self.content_type
        return payload_pb2.Payload(data=orjson.dumps(value), content_type=CONTENT_TYPE)


def is_reference(payload: payload_pb2.Payload) -> bool:
    """Whether a payload stands for another one."""
    return payload.content_type == CONTENT_TYPE


def read(payload: payload_pb2.Payload) -> Reference:
    """Reads what travelled. Raises ReferenceFailed."""
    try:
        value = orjson.loads(payload.data)
        return Reference(
            uri=str(value["uri"]),
            sha256=str(value["sha256"]),
            size=int(value["bytes"]),
            content_type=str(value.get("content_type", "")),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReferenceFailed(CORRUPT, f"a reference cannot be read: {error!r}") from error


class References:
    """Fetches and keeps the payloads of one agent."""

    def __init__(
        self, store: PayloadStore | None, *, inline_max: int = 0, stored_max: int = 0
    ) -> None:
        """Payloads of more than `inline_max` bytes are stored, of at most `stored_max`."""
        self._store = store
        self._inline_max = inline_max
        self._stored_max = stored_max

    @property
    def output_bytes_max(self) -> int:
        """The most bytes that an output may have."""
        return PAYLOAD_BYTES_MAX if self._store is None else self._stored_max

    def wants_fetching(self, lease: agents_pb2.Lease, run: agents_pb2.RunContext) -> bool:
        """Whether anything that a handler is given lies in a store."""
        return any(map(is_reference, _given(lease, run)))

    def wants_keeping(self, output: object) -> bool:
        """Whether how a handler ended is an output that is to be stored."""
        return (
            self._store is not None
            and isinstance(output, payload_pb2.Payload)
            and len(output.data) > self._inline_max
            and not is_reference(output)
        )

    async def fetched(
        self, lease: agents_pb2.Lease, run: agents_pb2.RunContext
    ) -> tuple[agents_pb2.Lease, agents_pb2.RunContext]:
        """Gives both with everything in them that lies in a store. Raises ReferenceFailed."""
        whole, context = agents_pb2.Lease(), agents_pb2.RunContext()
        whole.CopyFrom(lease)
        context.CopyFrom(run)
        for payload in _given(whole, context):
            if is_reference(payload):
                payload.CopyFrom(await self._fetch(read(payload), run.tenant_id))
        return whole, context

    async def keep(self, tenant_id: str, output: payload_pb2.Payload) -> payload_pb2.Payload:
        """Stores an output, and gives what travels instead. Raises ReferenceFailed."""
        assert self._store is not None
        digest = digest_of(output.data)
        try:
            uri = await self._store.put(tenant_id, digest, output.data)
        except StoreError as error:
            raise ReferenceFailed(UNREACHABLE, str(error)) from error
        size, content_type = len(output.data), output.content_type
        return Reference(uri=uri, sha256=digest, size=size, content_type=content_type).payload()

    async def _fetch(self, reference: Reference, tenant_id: str) -> payload_pb2.Payload:
        if self._store is None:
            reason = f"{reference.uri} lies in a store, and this agent has none: see [payloads]"
            raise ReferenceFailed(UNREACHABLE, reason)
        # Where a tenant's payloads lie follows from their digest: a reference to any other place,
        # or to what belongs to another tenant, is never followed.
        if reference.uri != self._store.uri(tenant_id, reference.sha256):
            reason = f"{reference.uri} is no payload of tenant {tenant_id} in this agent's store"
            raise ReferenceFailed(UNREACHABLE, reason)
        if reference.size > self._stored_max:
            reason = f"{reference.uri} has {reference.size} bytes, at most {self._stored_max}"
            raise ReferenceFailed(UNREACHABLE, f"{reason} are allowed by [payloads] stored_max")
        try:
            data = await self._store.get(tenant_id, reference.sha256)
        except StoreError as error:
            raise ReferenceFailed(UNREACHABLE, str(error)) from error
        if len(data) != reference.size or digest_of(data) != reference.sha256:
            raise ReferenceFailed(CORRUPT, f"{reference.uri} is not what was put there")
        return payload_pb2.Payload(data=data, content_type=reference.content_type)


def _given(lease: agents_pb2.Lease, run: agents_pb2.RunContext) -> Iterator[payload_pb2.Payload]:
    """Every payload that a handler is given."""
    if lease.HasField("input"):
        yield lease.input
    if run.HasField("input"):
        yield run.input
    if lease.HasField("checkpoint"):
        yield lease.checkpoint
    yield from lease.upstream.values()
