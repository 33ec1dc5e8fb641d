"""Tells for certain that a name is new, in a byte or two a name, without asking the store.

A Bloom filter (B. H. Bloom, "Space/time trade-offs in hash coding with allowable errors", 1970), in
layers: each takes as many names as all before it, so that there are few to look through, and is
forgotten as a whole when its last name is old.
"""

from __future__ import annotations

import hashlib
from collections import deque

#: How many names the first layer takes.
LAYER_NAMES_MIN = 50_000
#: Ten bits a name and seven hashes: one new name in a hundred looks known.
_BITS_PER_NAME = 10
_HASHES = 7


class _Layer:
    __slots__ = ("bits", "names", "names_max", "newest_us", "size")

    def __init__(self, names_max: int) -> None:
        self.names_max = names_max
        self.size = names_max * _BITS_PER_NAME
        self.bits = bytearray((self.size + 7) // 8)
        self.names = 0
        self.newest_us = 0

    def add(self, first: int, step: int) -> None:
        bits, size = self.bits, self.size
        for number in range(_HASHES):
            position = (first + number * step) % size
            bits[position >> 3] |= 1 << (position & 7)
        self.names += 1

    def may_hold(self, first: int, step: int) -> bool:
        bits, size = self.bits, self.size
        for number in range(_HASHES):
            position = (first + number * step) % size
            if not bits[position >> 3] >> (position & 7) & 1:
                return False
        return True


class Seen:
    """The names that were added. `may_hold` is never wrong when it says no."""

    __slots__ = ("_layers",)

    def __init__(self) -> None:
        self._layers: deque[_Layer] = deque([_Layer(LAYER_NAMES_MIN)])

    def add(self, name: str, at_us: int) -> None:
        """Adds a name, which may be forgotten once `at_us` is long ago."""
        layer = self._layers[-1]
        if layer.names >= layer.names_max:
            # As many as are held, not twice the last: what was forgotten needs no room.
            layer = _Layer(max(LAYER_NAMES_MIN, sum(held.names for held in self._layers)))
            self._layers.append(layer)
        layer.add(*_hashes(name))
        layer.newest_us = max(layer.newest_us, at_us)

    def may_hold(self, name: str) -> bool:
        """False: the name was never added, or is forgotten. True: it probably was."""
        first, step = _hashes(name)
        return any(layer.may_hold(first, step) for layer in self._layers)

    def put_before(self, older: Seen) -> None:
        """Takes over the names of another, which are older than its own."""
        self._layers.extendleft(reversed(older._layers))

    def forget(self, before_us: int) -> None:
        """Forgets layers whose names are all older."""
        while len(self._layers) > 1 and self._layers[0].newest_us < before_us:
            self._layers.popleft()


def _hashes(name: str) -> tuple[int, int]:
    # Two hashes give all others (Kirsch and Mitzenmacher, "Less hashing, same performance", 2006).
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big") | 1
