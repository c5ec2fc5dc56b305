"""One digest for many byte strings, such that each can be shown to be among them without the others.

Merkle 1987, "A Digital Signature Based on a Conventional Encryption Function", with leaves and inner nodes hashed apart (RFC 6962, section 2.1). A
node without a neighbour moves up as it is. Who checks knows how many leaves there are, so no two trees of that size have one root.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import final

DIGEST = 32


@final
class HashTree:
    """Over ``leaves``, of which there is at least one."""

    __slots__ = ("_levels",)

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self._levels = [[_leaf(leaf) for leaf in leaves]]
        while len(below := self._levels[-1]) > 1:
            level = [_node(below[place], below[place + 1]) for place in range(0, len(below) - 1, 2)]
            self._levels.append(level if len(below) % 2 == 0 else [*level, below[-1]])

    @property
    def root(self) -> bytes:
        return self._levels[-1][0]

    def paths(self) -> list[bytes]:
        """Of each leaf the neighbours from it up to the root, 32 bytes each."""
        found = [b""]
        for level in reversed(self._levels[:-1]):
            neighbours = [level[place ^ 1] if place ^ 1 < len(level) else b"" for place in range(len(level))]
            found = [neighbour + found[place // 2] for place, neighbour in enumerate(neighbours)]
        return found


def path_length(place: int, count: int) -> int:
    """Bytes of the path of the leaf at ``place`` of ``count``."""
    length = 0
    while count > 1:
        length += DIGEST * (place ^ 1 < count)
        place, count = place // 2, (count + 1) // 2
    return length


def root_of(leaf: bytes, place: int, count: int, path: bytes) -> bytes:
    """The root of the tree of ``count`` leaves that has this one at ``place``, if ``path`` is its path there; else something else."""
    node, taken = _leaf(leaf), 0
    while count > 1:
        if place ^ 1 < count:
            neighbour = path[taken : taken + DIGEST]
            node = _node(neighbour, node) if place % 2 else _node(node, neighbour)
            taken += DIGEST
        place, count = place // 2, (count + 1) // 2
    return node if taken == len(path) else b""


def _leaf(content: bytes) -> bytes:
    return hashlib.sha256(b"\0" + content).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
