"""Audits a store while no coordinator works on it: every log, and every run against its log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tenure_evidence import audit as audits
from tenure_evidence import enactments
from tenure_evidence.canonical import NotCanonical, digest_text, read
from tenure_evidence.keys import Chain
from tenure_server.engine import comparison
from tenure_server.engine.inspection import LogBroken, inspect
from tenure_server.store import evidence_reads
from tenure_server.store.database import Store
from tenure_server.store.evidence_reads import PAGE, EvidenceReads
from tenure_server.store.reads import Reads, TenantReads

_TENANTS_AT_ONCE = 500
_CHECKPOINTS_AT_ONCE = 1000
_VERSIONS_AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong."""

    #: Empty for the installation's own log.
    tenant_id: str
    #: The first entry concerned; None where none can be named.
    index: int | None
    reason: str

    @property
    def sentence(self) -> str:
        """For people."""
        whose = f"tenant {self.tenant_id}" if self.tenant_id else "the installation"
        where = "" if self.index is None else f"entry {self.index}: "
        return f"{whose}: {where}{self.reason}"


def audit_store(store: Store, chain: Chain) -> list[Finding]:
    """Reads everything once, but no further where tables or indexes are damaged: what is read by
    them need not be all there is. Raises StoreFailed.
    """
    with store.reading():
        if damage := store.backend.damage():
            reason = f"{store.backend.name} is damaged: {damage}"
            return [Finding(tenant_id="", index=None, reason=reason)]
        names = {"", *evidence_reads.heads(store), *_tenants(store)}
        return [finding for name in sorted(names) for finding in _audit(store, chain, name)]


def _tenants(store: Store) -> Iterator[str]:
    after = ""
    while found := Reads(store).tenants(after, _TENANTS_AT_ONCE):
        yield from (tenant.tenant_id for tenant in found)
        after = found[-1].tenant_id


def _audit(store: Store, chain: Chain, tenant_id: str) -> Iterator[Finding]:
    reads = EvidenceReads(store, tenant_id)
    report = audits.audit(
        _entries(reads), tenant=tenant_id, chain=chain, checkpoints=_checkpoints(reads)
    )
    exact = [fault.index for fault in report.faults if fault.until is None]
    found = [
        Finding(
            tenant_id=tenant_id,
            # A range says nothing more once an entry in it is named.
            index=None if fault.until is not None and exact else fault.index,
            reason=fault.reason,
        )
        for fault in report.faults
    ]
    found += _nodes(reads, report.size, {index for index in exact if index is not None})
    if not found:
        try:
            inspect(reads, chain)
        except LogBroken as error:
            found = [Finding(tenant_id=tenant_id, index=error.index, reason=str(error))]
    yield from found
    for index, reason in enactments.problems(_constitutions(store, tenant_id), _enacted(reads)):
        yield Finding(tenant_id=tenant_id, index=index, reason=reason)
    if tenant_id:
        yield from _runs(store, reads)


def _entries(reads: EvidenceReads) -> Iterator[audits.LogEntry]:
    """All entries with the hashes that are stored for them."""
    index = 0
    while page := reads.entries(index, PAGE, evidence_reads.WHOLE):
        leaves = reads.leaves(page[0].index, page[-1].index + 1)
        for entry in page:
            yield audits.LogEntry(
                index=entry.index,
                entry=entry.entry,
                # Items are never pruned here: an entry without them was written without them.
                items=entry.items or (),
                leaf=leaves.get(entry.index, b""),
            )
        index = page[-1].index + 1


def _checkpoints(reads: EvidenceReads) -> list[str]:
    found: list[str] = []
    below = 1 << 53
    while page := reads.checkpoints(below, _CHECKPOINTS_AT_ONCE):
        found += [checkpoint.note for checkpoint in page]
        below = page[-1].size
    return found


def _nodes(reads: EvidenceReads, size: int, bad: set[int]) -> Iterator[Finding]:
    """Compares every node above the leaves with the two below it."""
    for level, position, problem in reads.wrong_nodes(size, bad):
        yield Finding(
            tenant_id=reads.tenant_id,
            index=position << level,
            reason=f"node {position} of level {level} {problem}",
        )


def _constitutions(store: Store, tenant_id: str) -> Iterator[tuple[int, str, bytes]]:
    before: int | None = None
    while page := TenantReads(store, tenant_id).constitutions(before, _VERSIONS_AT_ONCE):
        for row in page:
            yield row.version, row.digest, row.canonical
        before = page[-1].version


def _enacted(reads: EvidenceReads) -> Iterator[enactments.Enactment]:
    for kind in sorted(enactments.KINDS):
        wanted, index = evidence_reads.Wanted(kind=kind), 0
        while page := reads.entries(index, PAGE, wanted):
            for entry in page:
                try:
                    found = enactments.enactment_of(entry.index, read(entry.entry))
                except NotCanonical:
                    continue  # the audit of the log names it
                if found is not None:
                    yield found
            index = page[-1].index + 1


def _runs(store: Store, reads: EvidenceReads) -> Iterator[Finding]:
    """Compares definitions with their digests, and runs with what was written down of them."""
    tables = TenantReads(store, reads.tenant_id)
    for name, version, digest, canonical in reads.definitions():
        if digest_text(canonical) != digest:
            reason = f"version {version} of workflow {name} is not what was registered"
            index = reads.registration(digest)
            yield Finding(tenant_id=reads.tenant_id, index=index, reason=reason)
    before: tuple[int, str] | None = None
    while page := tables.runs(None, (), before, PAGE):
        for run in page:
            whole = tables.run(run.run_id)
            found = None if whole is None else comparison.compare(tables, reads, whole)
            if found is not None:
                index, reason = found
                yield Finding(tenant_id=reads.tenant_id, index=index, reason=reason)
        before = (page[-1].create_us, page[-1].run_id)
