"""What a recipient rests on: of the parcels that a dealer signed by one digest, it can tell its own from any other."""

from __future__ import annotations

import hashlib

import pytest

from aimer2.secure_aggregation.hash_tree import HashTree, path_length, root_of


def sha(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def test_the_root_of_three_leaves_is_that_of_the_definition() -> None:
    first, second, third = (sha(b"\0" + leaf) for leaf in (b"a", b"b", b"c"))
    assert HashTree([b"a", b"b", b"c"]).root == sha(b"\1" + sha(b"\1" + first + second) + third)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 12, 33])
def test_each_leaf_shows_its_own_place_and_no_other(count: int) -> None:
    leaves = [f"leaf {number}".encode() for number in range(count)]
    tree = HashTree(leaves)
    paths = tree.paths()
    for place, (leaf, path) in enumerate(zip(leaves, paths, strict=True)):
        assert len(path) == path_length(place, count)
        assert root_of(leaf, place, count, path) == tree.root
        assert root_of(leaf + b"x", place, count, path) != tree.root
        assert root_of(leaf, place, count, path + bytes(32)) != tree.root
        assert root_of(leaf, place, count, path[:-1]) != tree.root or not path
        assert all(root_of(leaf, other, count, paths[other]) != tree.root for other in range(count) if other != place)


def test_a_tree_of_fewer_or_more_leaves_has_another_root() -> None:
    leaves = [bytes([number]) for number in range(9)]
    assert len({HashTree(leaves[:count]).root for count in range(1, 10)} | {HashTree([*leaves[:3], leaves[2]]).root}) == 10


def test_an_inner_node_is_no_leaf() -> None:
    tree = HashTree([b"a", b"b", b"c"])
    inside = sha(b"\0a") + sha(b"\0b")
    assert root_of(inside, 0, 2, sha(b"\0c")) != tree.root
