"""Makes the bundle of a run out of the store, in a reader's thread."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tenure_evidence import bundle, tree
from tenure_evidence.canonical import NotCanonical, hash_text, read
from tenure_evidence.digests import constitution_digest
from tenure_evidence.signing import SigningKeys
from tenure_server.core import errors
from tenure_server.core.evidence import COORDINATOR, INSTALLATION, Act, Draft
from tenure_server.core.ledger import records
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store
from tenure_server.store.errors import StoreConflict, StoreFailed
from tenure_server.store.evidence_reads import EvidenceReads
from tenure_server.store.reads import TenantReads

_VERSIONS_AT_ONCE = 100
#: In items that name the definition a run goes on under.
_NAMING = (b'"kind":"run.started"', b'"kind":"run.moved"')


def of_run(store: Store, keys: SigningKeys, checkpoint: records.Checkpoint, run_id: str) -> bytes:
    """The bundle of a run as it stood at a checkpoint of its tenant's log.

    Inside `Store.reading`. Raises NotFound, and Quarantined when something that it needs is gone.
    """
    tenant_id, size = checkpoint.tenant_id, checkpoint.size
    run = TenantReads(store, tenant_id).run(run_id)
    reads = EvidenceReads(store, tenant_id)
    if run is None:
        raise errors.NotFound("run", run_id)
    entries = list(reads.entries_of_run(run_id, size))
    if not entries:
        # Its events were pruned, or it ended before there was evidence.
        raise errors.NotFound("evidence of run", run_id)
    workflow, *later = _definitions(store, run, entries)
    places = {place for entry in entries for place in tree.inclusion_nodes(entry.index, size)}
    nodes = reads.nodes(sorted(places))
    platform, own = _constitution(store, tenant_id, run.constitution_digest)
    try:
        parts = [
            bundle.EntryPart(
                entry=entry.entry,
                proof=tree.inclusion_proof(entry.index, size, nodes),
                items=_parts(entry.items or (), run_id),
            )
            for entry in entries
        ]
    except KeyError as error:
        level, position = error.args[0]
        finding = f"node {position} of level {level} is missing"
        raise errors.Quarantined(tenant_id, finding) from None
    made = bundle.Bundle(
        tenant=tenant_id,
        run=run_id,
        installation=keys.installation,
        root_key=keys.root_key,
        certificates=keys.certificates,
        checkpoint=checkpoint.note,
        definition=workflow.canonical,
        constitution_platform=platform,
        constitution_tenant=own,
        entries=parts,
        moved_to=[version.canonical for version in later],
    )
    return bundle.build(made, f"{workflow.name}@{workflow.version}", workflow.digest, keys.newest)


def _definitions(
    store: Store, run: records.Run, entries: Sequence[records.LogEntry]
) -> list[records.Workflow]:
    """The definition that a run was started under, and those that it was moved to, in order.

    As its events have it up to the checkpoint, for since then it may have been moved again.
    """
    reads, found = TenantReads(store, run.tenant_id), []
    for entry in entries:
        for raw in entry.items or ():
            if not any(word in raw for word in _NAMING) or _run_of(raw) != run.run_id:
                continue
            digest = read(raw)["definition"]
            version = reads.workflow_by_digest(digest)
            if version is None:
                raise errors.Quarantined(run.tenant_id, f"definition {digest} is missing")
            found.append(version)
    if not found:
        raise errors.Quarantined(run.tenant_id, f"run {run.run_id} has no beginning")
    return found


def _parts(items: Sequence[bytes], run_id: str) -> list[bundle.ItemPart]:
    """The items of the run, with their proofs; those of other runs are shown to nobody."""
    mine = [position for position, item in enumerate(items) if _run_of(item) == run_id]
    proofs = tree.inclusion_paths(mine, [tree.leaf_hash(item) for item in items])
    return [
        bundle.ItemPart(position=position, item=items[position], proof=proof)
        for position, proof in zip(mine, proofs, strict=True)
    ]


def _run_of(item: bytes) -> object:
    try:
        return read(item).get("run")
    except NotCanonical:
        return None


def _constitution(store: Store, tenant_id: str, digest: str) -> tuple[bytes, bytes]:
    """The canonical constitutions, the platform's and the tenant's, that have this digest together.

    Both are empty when they are not known any more; a verifier says so then.
    """
    platforms = _versions(store, INSTALLATION)
    own = [b"", *_versions(store, tenant_id)]
    for platform, tenant in itertools.product(platforms, own):
        if hash_text(constitution_digest(platform, tenant)) == digest:
            return platform, tenant
    return b"", b""


def _versions(store: Store, tenant_id: str) -> list[bytes]:
    """Every version of a constitution, the newest first."""
    reads, found, before = TenantReads(store, tenant_id), [], None
    while page := reads.constitutions(before, _VERSIONS_AT_ONCE):
        found += [version.canonical for version in page]
        before = page[-1].version
    return found


def keep_platform(store: Store, digest: str, canonical: bytes, now_us: int) -> None:
    """Keeps the platform's constitution, so that runs stay provable that were started under it.

    To be called before anything else writes. Raises StoreFailed.
    """
    with store.reading():
        newest = TenantReads(store, INSTALLATION).constitution()
    if newest is not None and newest.digest == digest:
        return
    act = Act(kind="constitution.platform", subject={"constitution": digest})

    def keep(acts: Acts) -> None:
        acts.set_constitution(INSTALLATION, digest, canonical, COORDINATOR, now_us)

    try:
        store.writer().act({}, keep, [Draft(act, INSTALLATION, now_us)])
    except StoreConflict as error:
        # Another coordinator of the same database starts just now, and was faster.
        with store.reading():
            newest = TenantReads(store, INSTALLATION).constitution()
        if newest is None or newest.digest != digest:
            raise StoreFailed(f"the platform's constitution could not be kept: {error}") from error
