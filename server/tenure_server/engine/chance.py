"""Random bytes for ids, drawn from the system many at once.

A draw is a call to the system, in which the thread that commits may take the interpreter away: on
the loop, a few bytes for each call that comes are not worth that.
"""

from __future__ import annotations

import os
from collections import deque

#: The most bytes of which many are kept.
PIECE_BYTES = 16
_PIECES = 256


class Chance:
    """Gives random bytes, each of them once. Threads may share it."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()

    def __call__(self, count: int) -> bytes:
        """So many random bytes."""
        if count > PIECE_BYTES:
            return os.urandom(count)
        while True:
            try:
                return self._pieces.pop()[:count]
            except IndexError:
                block = os.urandom(PIECE_BYTES * _PIECES)
                for start in range(0, len(block), PIECE_BYTES):
                    self._pieces.append(block[start : start + PIECE_BYTES])

    def forget(self) -> None:
        """Keeps none of the bytes that were drawn already."""
        self._pieces.clear()


draw = Chance()
# A child would give the same bytes as its parent.
os.register_at_fork(after_in_child=draw.forget)
