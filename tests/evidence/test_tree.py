"""RFC 6962 trees: against known roots, and against the recursive definitions of the RFC."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure_evidence import tree

#: The leaves and roots that all implementations of Certificate Transparency are tried with.
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "", "00", "10", "2021", "3031", "40414243",
        "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

SIZES = st.integers(1, 70)


def leaf_hashes(size: int) -> list[bytes]:
    return [tree.leaf_hash(b"%d" % number) for number in range(size)]


def defined_root(hashes: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, 2.1, word for word."""
    if len(hashes) < 2:
        return hashes[0] if hashes else tree.EMPTY_ROOT
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return tree.node_hash(defined_root(hashes[:k]), defined_root(hashes[k:]))


def defined_path(m: int, hashes: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962, 2.1.1, word for word."""
    if len(hashes) == 1:
        return []
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    if m < k:
        return [*defined_path(m, hashes[:k]), defined_root(hashes[k:])]
    return [*defined_path(m - k, hashes[k:]), defined_root(hashes[:k])]


def defined_subproof(m: int, hashes: Sequence[bytes], known: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962, 2.1.2, word for word."""
    if m == len(hashes):
        return [] if known else [defined_root(hashes)]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    if m <= k:
        return [*defined_subproof(m, hashes[:k], known), defined_root(hashes[k:])]
    return [*defined_subproof(m - k, hashes[k:], False), defined_root(hashes[:k])]


def stored(hashes: Sequence[bytes]) -> dict[tree.Place, bytes]:
    """What a store would keep: every complete node."""
    frontier = tree.Frontier()
    nodes = {}
    for leaf in hashes:
        for level, index, value in frontier.append(leaf):
            assert (level, index) not in nodes, "a node is completed once"
            nodes[level, index] = value
    return nodes


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    hashes = [tree.leaf_hash(leaf) for leaf in LEAVES[:size]]
    assert tree.root(hashes).hex() == ROOTS[size]
    frontier = tree.Frontier()
    for leaf in hashes:
        frontier.append(leaf)
    assert frontier.root().hex() == ROOTS[size]


def test_every_proof_of_every_small_tree_is_the_one_defined() -> None:
    for size in range(1, 34):
        hashes = leaf_hashes(size)
        nodes = stored(hashes)
        assert tree.root(hashes) == defined_root(hashes)
        paths = tree.inclusion_paths(range(size), hashes)
        for index in range(size):
            assert paths[index] == defined_path(index, hashes)
            needed = {place: nodes[place] for place in tree.inclusion_nodes(index, size)}
            assert tree.inclusion_proof(index, size, needed) == paths[index]
        for first in range(1, size + 1):
            needed = {place: nodes[place] for place in tree.consistency_nodes(first, size)}
            proof = tree.consistency_proof(first, size, needed)
            assert proof == defined_subproof(first, hashes, True)
            old = defined_root(hashes[:first])
            assert tree.verify_consistency(first, size, old, tree.root(hashes), proof)


@given(SIZES, st.data())
def test_a_leaf_is_proven_at_its_own_place_only(size: int, data: st.DataObject) -> None:
    hashes = leaf_hashes(size)
    index = data.draw(st.integers(0, size - 1))
    proof = tree.inclusion_path(index, hashes)
    root = tree.root(hashes)
    assert tree.verify_inclusion(index, size, hashes[index], proof, root)
    other = data.draw(st.integers(-1, size + 1).filter(lambda n: n != index))
    assert not tree.verify_inclusion(other, size, hashes[index], proof, root)
    assert not tree.verify_inclusion(index, size, tree.leaf_hash(b"x"), proof, root)
    assert not tree.verify_inclusion(index, size, hashes[index], [*proof, root], root)
    if proof:
        assert not tree.verify_inclusion(index, size, hashes[index], proof[:-1], root)
        changed = data.draw(st.integers(0, len(proof) - 1))
        proof[changed] = tree.leaf_hash(b"y")
        assert not tree.verify_inclusion(index, size, hashes[index], proof, root)


@given(SIZES, st.data())
def test_no_other_past_is_consistent(size: int, data: st.DataObject) -> None:
    hashes = leaf_hashes(size)
    first = data.draw(st.integers(1, size))
    proof = tree.consistency_proof(first, size, stored(hashes))
    old, new = tree.root(hashes[:first]), tree.root(hashes)
    assert not tree.verify_consistency(first, size, tree.leaf_hash(b"x"), new, proof)
    assert not tree.verify_consistency(first, size, old, tree.leaf_hash(b"x"), proof)
    assert not tree.verify_consistency(first, size, old, new, [*proof, old])
    if proof:
        assert not tree.verify_consistency(first, size, old, new, proof[:-1])
        assert not tree.verify_consistency(first, size, old, new, proof[1:])


def test_the_start_of_everything_is_nothing() -> None:
    hashes = leaf_hashes(3)
    assert tree.consistency_proof(0, 3, {}) == []
    assert tree.verify_consistency(0, 3, tree.EMPTY_ROOT, tree.root(hashes), [])
    assert not tree.verify_consistency(0, 3, tree.root(hashes), tree.root(hashes), [])
    assert not tree.verify_consistency(3, 2, tree.root(hashes), tree.root(hashes[:2]), [])
    with pytest.raises(ValueError, match="no start"):
        tree.consistency_nodes(3, 2)


def test_there_is_no_proof_beyond_the_end() -> None:
    for index in (-1, 3):
        with pytest.raises(IndexError):
            tree.inclusion_path(index, leaf_hashes(3))
        with pytest.raises(IndexError):
            tree.inclusion_nodes(index, 3)


@given(st.integers(0, 70), st.integers(0, 20))
def test_a_restored_edge_grows_like_the_first_one(size: int, more: int) -> None:
    hashes = leaf_hashes(size + more)
    nodes = stored(hashes[:size])
    frontier = tree.Frontier.restore(size, {p: nodes[p] for p in tree.frontier_nodes(size)})
    before = frontier.copy()
    for leaf in hashes[size:]:
        frontier.append(leaf)
    assert frontier.root() == defined_root(hashes)
    assert frontier.size == size + more
    assert before.size == size
    assert before.root() == defined_root(hashes[:size])


def test_an_edge_is_not_restored_without_all_its_nodes() -> None:
    with pytest.raises(KeyError):
        tree.Frontier.restore(3, {(1, 0): tree.EMPTY_ROOT})


@pytest.mark.parametrize("length", [0, 1, 1999, 2000, 2001, 4000, 9001])
def test_a_long_leaf_is_hashed_in_pieces_to_the_same_hash(length: int) -> None:
    leaf = bytes(number % 251 for number in range(length))
    assert tree.leaf_hashes([leaf, b"x"]) == [tree.leaf_hash(leaf), tree.leaf_hash(b"x")]
