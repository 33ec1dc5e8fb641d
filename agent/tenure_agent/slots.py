"""Free room and credits, as arithmetic: how many leases the coordinator may still send.

A slot is taken from the moment a lease comes until its handler has really ended. A credit is a
free slot that was promised to the coordinator. So ``busy + promised`` never exceeds ``total``,
which is what keeps an agent from being given more than it can do.
"""

from __future__ import annotations


class Slots:
    """The slots of one agent."""

    __slots__ = ("busy", "closed", "promised", "total")

    def __init__(self, total: int) -> None:
        self.total = total
        self.busy = 0
        self.promised = 0
        self.closed = False

    def credits_due(self) -> int:
        """How many credits to give now so that every free slot is promised."""
        if self.closed:
            return 0
        return max(0, self.total - self.busy - self.promised)

    def promise(self, credits_given: int) -> None:
        """Notes credits that are being sent."""
        self.promised += credits_given

    def take(self) -> bool:
        """Takes a slot for a lease that came; False when the coordinator sent one too many."""
        self.promised = max(0, self.promised - 1)
        if self.busy >= self.total:
            return False
        self.busy += 1
        return True

    def free(self) -> None:
        """Gives a slot back whose handler has ended."""
        self.busy -= 1

    def line_cut(self) -> None:
        """Forgets the promises of a stream that is gone."""
        self.promised = 0

    def close(self) -> None:
        """Promises nothing more; what was promised is taken back."""
        self.closed = True
        self.promised = 0
