"""The outputs of a run's tasks that are still needed."""

from __future__ import annotations

from collections.abc import Iterable

from tenure_server.core.definitions.payloads import Payload


class Outputs(dict[int, Payload]):
    """By the task that made it, each as long as tasks wait that need it."""

    __slots__ = ("_digests", "waiters")

    def __init__(self) -> None:
        super().__init__()
        #: How many tasks wait for each; those without a number stay until they are taken out.
        self.waiters: dict[int, int] = {}
        self._digests: dict[int, bytes] = {}

    def keep(self, index: int, output: Payload, waiters: int) -> None:
        """Keeps an output for so many tasks."""
        self[index] = output
        self.waiters[index] = waiters

    def release(self, tasks: Iterable[int]) -> None:
        """One of those that waited for these outputs has ended."""
        waiters = self.waiters
        for index in tasks:
            if index not in waiters:
                continue
            waiters[index] -= 1
            if not waiters[index]:
                del waiters[index]
                del self[index]
                self._digests.pop(index, None)

    def forget(self, index: int) -> None:
        """Takes out an output, whoever waits for it."""
        self.pop(index, None)
        self.waiters.pop(index, None)
        self._digests.pop(index, None)

    def digest(self, index: int) -> bytes:
        """The raw digest of an output that is kept: made once, for tasks may be many."""
        digest = self._digests.get(index)
        if digest is None:
            digest = self._digests[index] = self[index].digest()
        return digest
