"""Merkle trees as in RFC 6962, section 2.1, with SHA-256; checks as in RFC 9162, section 2.1.

A *complete node* (level, index) is the root of the 2^level leaves from index * 2^level on. Once
complete it never changes, so it is all that a store has to keep; the nodes at the right edge are
made from complete ones when a proof is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

#: Where a complete node stands: level from the leaves up, and index within the level.
Place = tuple[int, int]

EMPTY_ROOT = hashlib.sha256().digest()
HASH_BYTES = 32
#: A tree of more leaves than this is nobody's; bounds the length of proofs.
SIZE_MAX = 2**53

_sha256 = hashlib.sha256
#: Below the 2,048 bytes from which on `hashlib` lets go of the lock, the mark of a leaf included.
_PIECE_BYTES = 2000


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf: H(0x00 || data)."""
    return _sha256(b"\x00" + data).digest()


def leaf_hashes(leaves: Iterable[bytes]) -> list[bytes]:
    """The hashes of many leaves."""
    # Inlined, as in the rows above: a coordinator makes tens of thousands a second.
    sha256 = _sha256
    return [
        sha256(b"\x00" + leaf).digest() if len(leaf) < _PIECE_BYTES else _in_pieces(leaf)
        for leaf in leaves
    ]


def _in_pieces(leaf: bytes) -> bytes:
    """The hash of a long leaf, made without letting go of the interpreter's lock.

    Beside a busy loop, waiting for it takes longer than the hash.
    """
    hashed = _sha256(b"\x00")
    for start in range(0, len(leaf), _PIECE_BYTES):
        hashed.update(leaf[start : start + _PIECE_BYTES])
    return hashed.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node: H(0x01 || left || right)."""
    return _sha256(b"\x01" + left + right).digest()


def root(leaf_hashes: Sequence[bytes]) -> bytes:
    """The root over leaves, given their hashes."""
    row = list(leaf_hashes)
    if not row:
        return EMPTY_ROOT
    while len(row) > 1:
        row = _row_above(row)
    return row[0]


class Frontier:
    """The right edge of a growing tree: its size and the roots of its complete subtrees."""

    __slots__ = ("_hashes", "size")

    def __init__(self) -> None:
        self.size = 0
        #: One for each set bit of the size, the largest subtree first.
        self._hashes: list[bytes] = []

    @classmethod
    def restore(cls, size: int, nodes: Mapping[Place, bytes]) -> Frontier:
        """Rebuilds the edge of a tree from the nodes that `frontier_nodes` names.

        Raises KeyError for a node that is missing.
        """
        frontier = cls()
        frontier._hashes = [nodes[place] for place in frontier_nodes(size)]
        frontier.size = size
        return frontier

    def copy(self) -> Frontier:
        """A second edge that grows by itself; for what may have to be taken back."""
        frontier = Frontier()
        frontier.size = self.size
        frontier._hashes = self._hashes.copy()
        return frontier

    def append(self, leaf: bytes) -> list[tuple[int, int, bytes]]:
        """Adds a leaf by its hash; gives (level, index, hash) of every node it completes.

        The leaf itself comes first, as level 0.
        """
        index = self.size
        self.size += 1
        completed = [(0, index, leaf)]
        level = 0
        while index & 1:
            leaf = _sha256(b"\x01" + self._hashes.pop() + leaf).digest()
            index >>= 1
            level += 1
            completed.append((level, index, leaf))
        self._hashes.append(leaf)
        return completed

    def root(self) -> bytes:
        """The root over all leaves so far."""
        return _fold(self._hashes) if self._hashes else EMPTY_ROOT


def frontier_nodes(size: int) -> list[Place]:
    """The complete nodes that make the right edge of a tree, the largest first."""
    return _cover(0, size)


def inclusion_path(index: int, leaf_hashes: Sequence[bytes]) -> list[bytes]:
    """The proof that a leaf is in a small tree. Raises IndexError beyond its end."""
    return inclusion_paths([index], leaf_hashes)[0]


def inclusion_paths(indexes: Iterable[int], leaf_hashes: Sequence[bytes]) -> list[list[bytes]]:
    """The proofs for several leaves of one small tree, whose nodes are made once only.

    Raises IndexError beyond its end.
    """
    rows = [list(leaf_hashes)]
    while len(rows[-1]) > 1:
        rows.append(_row_above(rows[-1]))
    paths = []
    for index in indexes:
        if not 0 <= index < len(leaf_hashes):
            raise IndexError(index)
        siblings = ((row, (index >> level) ^ 1) for level, row in enumerate(rows[:-1]))
        paths.append([row[sibling] for row, sibling in siblings if sibling < len(row)])
    return paths


def inclusion_nodes(index: int, size: int) -> list[Place]:
    """The complete nodes from which the proof for a leaf is made."""
    return [place for span in _inclusion_spans(index, size) for place in _cover(*span)]


def inclusion_proof(index: int, size: int, nodes: Mapping[Place, bytes]) -> list[bytes]:
    """The proof that leaf `index` is in the tree of `size` leaves, RFC 6962, 2.1.1.

    Needs the nodes that `inclusion_nodes` names; raises KeyError for one that is missing.
    """
    return [_span_root(span, nodes) for span in _inclusion_spans(index, size)]


def consistency_nodes(first: int, second: int) -> list[Place]:
    """The complete nodes from which a consistency proof is made."""
    return [place for span in _consistency_spans(first, second) for place in _cover(*span)]


def consistency_proof(first: int, second: int, nodes: Mapping[Place, bytes]) -> list[bytes]:
    """The proof that a tree of `first` leaves is the start of that of `second`, RFC 6962, 2.1.2.

    Needs the nodes that `consistency_nodes` names; raises KeyError for one that is missing.
    """
    return [_span_root(span, nodes) for span in _consistency_spans(first, second)]


def root_from_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes | None:
    """The root that a proof leads to, RFC 9162, 2.1.3.2; None when it cannot be such a proof."""
    if not 0 <= index < size <= SIZE_MAX:
        return None
    number, last = index, size - 1
    value = leaf
    for step in proof:
        if last == 0:
            return None
        if number & 1 or number == last:
            value = node_hash(step, value)
            while not number & 1 and number:
                number >>= 1
                last >>= 1
        else:
            value = node_hash(value, step)
        number >>= 1
        last >>= 1
    return value if last == 0 else None


def verify_inclusion(
    index: int, size: int, leaf: bytes, proof: Sequence[bytes], tree_root: bytes
) -> bool:
    """Whether a leaf, given its hash, stands at `index` in the tree with this size and root."""
    return root_from_inclusion(index, size, leaf, proof) == tree_root


def verify_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> bool:
    """Whether the tree of `first` leaves is the start of that of `second`, RFC 9162, 2.1.4.2."""
    if not 0 <= first <= second <= SIZE_MAX:
        return False
    if first == second:
        return not proof and first_root == second_root
    if first == 0:
        return not proof and first_root == EMPTY_ROOT
    steps = list(proof)
    if first & (first - 1) == 0:
        # A whole power of two is itself a node of the larger tree, and is left out of the proof.
        steps.insert(0, first_root)
    if not steps:
        return False
    number, last = first - 1, second - 1
    while number & 1:
        number >>= 1
        last >>= 1
    old = new = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if number & 1 or number == last:
            old = node_hash(step, old)
            new = node_hash(step, new)
            while not number & 1 and number:
                number >>= 1
                last >>= 1
        else:
            new = node_hash(new, step)
        number >>= 1
        last >>= 1
    return last == 0 and old == first_root and new == second_root


def _row_above(row: list[bytes]) -> list[bytes]:
    # The last node of an odd row has no sibling and goes up as it is.
    sha256 = _sha256
    above = [
        sha256(b"\x01" + left + right).digest()
        for left, right in zip(row[0::2], row[1::2], strict=False)
    ]
    if len(row) & 1:
        above.append(row[-1])
    return above


def _fold(hashes: Sequence[bytes]) -> bytes:
    value = hashes[-1]
    for left in reversed(hashes[:-1]):
        value = node_hash(left, value)
    return value


def _span_root(span: tuple[int, int], nodes: Mapping[Place, bytes]) -> bytes:
    return _fold([nodes[place] for place in _cover(*span)])


def _cover(start: int, end: int) -> list[Place]:
    """The complete nodes over leaves start to end, where a subtree of the whole begins at start."""
    places = []
    while start < end:
        level = (end - start).bit_length() - 1
        places.append((level, start >> level))
        start += 1 << level
    return places


def _split(size: int) -> int:
    """The largest power of two below a size of at least 2."""
    return 1 << ((size - 1).bit_length() - 1)


def _inclusion_spans(index: int, size: int) -> list[tuple[int, int]]:
    """The subtrees beside the way from a leaf to the root, as (start, end), from below."""
    if not 0 <= index < size:
        raise IndexError(index)
    return list(reversed(list(_spans_down(index, 0, size))))


def _spans_down(index: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            yield middle, end
            end = middle
        else:
            yield start, middle
            start = middle


def _consistency_spans(first: int, second: int) -> list[tuple[int, int]]:
    """SUBPROOF of RFC 6962, 2.1.2, as (start, end) of each subtree."""
    if not 0 <= first <= second:
        raise ValueError(f"a tree of {first} leaves is no start of one of {second}")
    if first in (0, second):
        return []
    spans: list[tuple[int, int]] = []
    start, end = 0, second
    while first != end:
        middle = start + _split(end - start)
        if first <= middle:
            spans.append((middle, end))
            end = middle
        else:
            spans.append((start, middle))
            start = middle
    if start > 0:
        # Otherwise the first tree is itself this node, and the verifier has it.
        spans.append((start, end))
    return list(reversed(spans))
