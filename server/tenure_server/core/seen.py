"""Tells for certain that a name is new, in a byte or two a name, without asking the store.

A Bloom filter (B. H. Bloom, "Space/time trade-offs in hash coding with allowable errors", 1970), in
layers: each takes so many names and is forgotten as a whole when its last name is old.
"""

from __future__ import annotations

import hashlib
from collections import deque

NAMES_PER_LAYER = 50_000
#: Ten bits a name and seven hashes: one new name in a hundred looks known.
_BITS = NAMES_PER_LAYER * 10
_HASHES = 7


class _Layer:
    __slots__ = ("bits", "names", "newest_us")

    def __init__(self) -> None:
        self.bits = bytearray((_BITS + 7) // 8)
        self.names = 0
        self.newest_us = 0


class Seen:
    """The names that were added. `may_hold` is never wrong when it says no."""

    __slots__ = ("_layers",)

    def __init__(self) -> None:
        self._layers: deque[_Layer] = deque([_Layer()])

    def add(self, name: str, at_us: int) -> None:
        """Adds a name, which may be forgotten once `at_us` is long ago."""
        layer = self._layers[-1]
        if layer.names >= NAMES_PER_LAYER:
            layer = _Layer()
            self._layers.append(layer)
        bits = layer.bits
        for position in _positions(name):
            bits[position >> 3] |= 1 << (position & 7)
        layer.names += 1
        layer.newest_us = max(layer.newest_us, at_us)

    def may_hold(self, name: str) -> bool:
        """False: the name was never added, or is forgotten. True: it probably was."""
        positions = _positions(name)
        for layer in self._layers:
            bits = layer.bits
            if all(bits[position >> 3] >> (position & 7) & 1 for position in positions):
                return True
        return False

    def forget(self, before_us: int) -> None:
        """Forgets layers whose names are all older."""
        while len(self._layers) > 1 and self._layers[0].newest_us < before_us:
            self._layers.popleft()


def _positions(name: str) -> list[int]:
    # Two hashes give all others (Kirsch and Mitzenmacher, "Less hashing, same performance", 2006).
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    first = int.from_bytes(digest[:8], "big")
    step = int.from_bytes(digest[8:], "big") | 1
    return [(first + number * step) % _BITS for number in range(_HASHES)]
