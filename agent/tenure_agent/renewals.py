"""What handlers said, as renewals tell it: each thing once, and the last checkpoint for certain."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from tenure.v1 import agents_pb2
from tenure_agent import runner
from tenure_agent.holding import Key
from tenure_agent.runner import Attempt


def renewal_of(attempt: Attempt) -> agents_pb2.Renewal:
    """A sign of life, with what the handler said since the last one. It counts as sent."""
    renewal = agents_pb2.Renewal(lease=runner.ref(attempt.lease))
    words = attempt.words
    progress = words.progress
    if progress is not None and progress is not attempt.progress_sent:
        attempt.progress_sent = progress
        renewal.progress, renewal.message = progress
    checkpoint = words.checkpoint
    if checkpoint is not None and checkpoint is not attempt.checkpoint_sent:
        attempt.checkpoint_sent = checkpoint
        renewal.checkpoint.CopyFrom(checkpoint)
    return renewal


def tell_anew(attempts: Iterable[Attempt], tenants: Collection[str]) -> None:
    """What the handlers of these tenants had to tell is to be told anew."""
    for attempt in attempts:
        if attempt.run.tenant_id in tenants:
            attempt.progress_sent = attempt.checkpoint_sent = None


class LastWords:
    """Renewals that bring the last checkpoint of an attempt that has ended, until its outcome."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        #: With the tenant.
        self._kept: dict[Key, tuple[agents_pb2.Renewal, str]] = {}

    def keep(self, attempt: Attempt) -> agents_pb2.Renewal | None:
        """Keeps the checkpoint of an attempt that has not succeeded; None: it was sent.

        The next attempt wants it, so it must reach the coordinator before the result.
        """
        checkpoint = attempt.words.checkpoint
        if checkpoint is None or checkpoint is attempt.checkpoint_sent:
            return None
        renewal = renewal_of(attempt)
        self._kept[attempt.key] = renewal, attempt.run.tenant_id
        return renewal

    def of(self, tenants: Collection[str]) -> Iterator[agents_pb2.Renewal]:
        """Those of some tenants, oldest first."""
        return (renewal for renewal, tenant in self._kept.values() if tenant in tenants)

    def forget(self, keys: Iterable[Key]) -> None:
        """Lets go of those of leases whose outcome is known."""
        if self._kept:
            for key in keys:
                self._kept.pop(key, None)
