"""What the store says of a result that comes after its task or run has ended."""

from __future__ import annotations

import hashlib
from hmac import compare_digest

from tenure_server.core.desks.desk import End, result_digest
from tenure_server.core.ledger import records
from tenure_server.core.ledger.lifecycle import RUN_ENDED, Verdict


def verdict_on(
    run: records.Run | None,
    task: records.Task | None,
    *,
    term: int,
    token: bytes,
    end: End,
    holder: str,
) -> Verdict:
    """Judges a result by the stored run and task. Who cannot prove the lease learns nothing."""
    if run is None or task is None:
        return Verdict.UNKNOWN
    if task.term != term:
        return Verdict.SUPERSEDED if term < task.term else Verdict.UNKNOWN
    proven = task.token_hash is not None and compare_digest(
        task.token_hash, hashlib.sha256(token).digest()
    )
    if task.holder != holder or not proven:
        return Verdict.UNKNOWN
    if task.result_hash == result_digest(end):
        return Verdict.ALREADY_APPLIED
    return Verdict.RUN_CLOSED if run.state in RUN_ENDED else Verdict.SUPERSEDED
