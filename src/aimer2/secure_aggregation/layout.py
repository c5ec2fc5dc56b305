"""What a masked upload looks like: which numbers in which order, as words of how many bits.

Every site and the coordinator hold the same layout, and its digest is bound into the round's context: two sites that count differently
never add up. The canonical order is by sum and leaf name; each leaf's words begin at a multiple of 16 bytes of the mask.

======== ================= ==================================================================================================
bits     which leaves      what a word holds
======== ================= ==================================================================================================
32       float32 ranged    value / range · limit, rounded; limit = ⌊(2^31 − 1) / sites⌋; clipped to the range, which is counted
32       int32             the value itself; refused above (2^31 − 1) / sites
64       int64             the value itself; refused above (2^63 − 1) / sites
64       float64 ranged    as 32, limit = ⌊(2^63 − 1) / sites⌋ to 53 bits
64       float32 unranged  of more than 1024 elements: as float64 of the range 2^30, but refused above it
128      floats unranged   the others: value · 2^60, rounded; two 64-bit limbs (low, high); refused above 2^66 / sites
======== ================= ==================================================================================================
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, final

import cbor2
import numpy as np

from aimer2.core.errors import BadInput, BadUpdate
from aimer2.core.said import say
from aimer2.core.tree import Tree

SECURE = "secure"
"""The sum that a masked upload has beside the study's own: how many values were clipped, how large they were, and the checksum."""

BLOCK = 1 << 15
"""Coordinates worked on at a time: their words and one mask fit into a core's cache."""

_DTYPES = ("float32", "float64", "int32", "int64")
INTEGERS = {"int32": 32, "int64": 64}
"""Whole numbers travel as they are, in so many bits."""

FEW = 1024
"""Elements up to which floats need no range: exact at four times the bytes, which is little, and a few numbers can grow by any factor."""

_FIRST_RANGE = 2.0**30
"""Of many float32 of whose size nothing is known: a change of 10,000 times 100,000 patients, at steps of 2^-33 times the number of sites."""

_WORDS = 2
"""Which table of words this is: sites that count by another one never add up."""

_RANGES = (2.0**-500, 2.0**500)
_INT128 = "int128"


@final
@dataclass(frozen=True, slots=True)
class Leaf:
    """One array of one sum. ``range``: the largest magnitude that a site's value can have; None where it is not known."""

    sum: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    range: float | None = None

    def __post_init__(self) -> None:
        if self.range is not None and (self.dtype not in ("float32", "float64") or not _RANGES[0] <= self.range <= _RANGES[1]):
            raise BadUpdate(say("{name} of {sum} cannot have the range {range}.", name=self.name, sum=self.sum, range=self.range))

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def reach(self) -> float | None:
        """The magnitude that the words reach; None where they have 128 bits."""
        unknown = self.range is None and self.dtype == "float32" and self.size > FEW
        return _FIRST_RANGE if unknown else self.range

    @property
    def bits(self) -> int:
        """Of one coordinate."""
        if self.dtype in INTEGERS:
            return INTEGERS[self.dtype]
        if self.reach is None:
            return 128
        return 32 if self.dtype == "float32" and self.range is not None else 64

    @property
    def limbs(self) -> int:
        """Words of one coordinate."""
        return 2 if self.bits == 128 else 1

    @property
    def word(self) -> np.dtype[Any]:
        return np.dtype("<u4" if self.bits == 32 else "<u8")

    @property
    def masked_shape(self) -> tuple[int, ...]:
        """Of the array that travels."""
        return (self.size, 2) if self.limbs == 2 else self.shape

    @property
    def measured(self) -> bool:
        """Whether the largest magnitude is told, for a later round's range."""
        return self.range is not None or self.dtype == "float32"


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where a leaf's words lie: the first byte in every mask, the first block of the checksum."""

    leaf: Leaf
    offset: int
    block: int


@final
@dataclass(frozen=True)
class Layout:
    """The leaves of a masked upload in canonical order, and among how many sites at most it is summed.

    Raises BadUpdate for leaves that are not in order, and for a sum named "secure".
    """

    leaves: tuple[Leaf, ...]
    sites: int

    def __post_init__(self) -> None:
        keys = [(leaf.sum, leaf.name) for leaf in self.leaves]
        if not all(one < other for one, other in pairwise(keys)) or any(leaf.sum == SECURE for leaf in self.leaves):
            raise BadUpdate(say("The leaves of a layout are sorted and different, and none belongs to a sum named {secure}.", secure=f"{SECURE!r}"))
        if odd := [leaf.dtype for leaf in self.leaves if leaf.dtype not in _DTYPES]:
            raise BadUpdate(say("Only float32, float64, int32 and int64 are summed in secret, not {odd}.", odd=odd[0]))
        if self.sites < 1:
            raise BadUpdate("A sum has at least one site.")

    @classmethod
    def of(cls, trees: Mapping[str, Tree], ranges: Mapping[str, Mapping[str, float]], sites: int) -> Layout:
        """The layout of these sums. A range that is missing or 0 is not known.

        Raises BadUpdate for a type that cannot be summed and for a range that is not finite.
        """
        leaves = []
        for sum_name in sorted(trees):
            for name, leaf in sorted(trees[sum_name].items()):
                known = float(ranges.get(sum_name, {}).get(name, 0.0))
                leaves.append(Leaf(sum_name, name, tuple(leaf.shape), leaf.dtype.name, known if known != 0 else None))
        return cls(tuple(leaves), sites)

    def document(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"sites": self.sites, "leaves": [[leaf.sum, leaf.name, list(leaf.shape), leaf.dtype, leaf.range] for leaf in self.leaves]}

    @classmethod
    def of_document(cls, document: Any) -> Layout:
        """Raises BadInput where the document is no layout."""
        try:
            leaves, sites = document["leaves"], document["sites"]
            if document.keys() != {"leaves", "sites"} or type(sites) is not int:
                raise ValueError
            return cls(tuple(_leaf(*entry) for entry in leaves), sites)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            raise BadInput("This is no layout of a masked upload.") from None

    def digest(self) -> str:
        """SHA-256, hex, over the deterministic CBOR of the document and the number of the table of words."""
        return hashlib.sha256(cbor2.dumps(self.document() | {"words": _WORDS}, canonical=True)).hexdigest()

    @property
    def checksum(self) -> Leaf:
        """One number of 128 bits, and no float."""
        return self.own[0]

    @cached_property
    def own(self) -> tuple[Leaf, ...]:
        """The leaves of the sum "secure", which every upload has: one count, one number per measured leaf, one checksum."""
        measured = sum(leaf.measured for leaf in self.leaves)
        return (
            Leaf(SECURE, "checksum", (1,), _INT128),
            Leaf(SECURE, "largest", (measured,), "float64"),
            Leaf(SECURE, "saturated", (1,), "int64"),
        )

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Of all leaves, those of the sum "secure" last."""
        return tuple(self._lay())

    def _lay(self) -> Iterator[Place]:
        offset = block = 0
        for leaf in (*self.leaves, *self.own):
            yield Place(leaf, offset, block)
            offset += -(-leaf.size * leaf.bits // 8 // 16) * 16
            block += -(-leaf.size // BLOCK)


def _leaf(sum_name: Any, name: Any, shape: Any, dtype: Any, known: Any) -> Leaf:
    texts = all(type(text) is str for text in (sum_name, name, dtype))
    if not texts or type(shape) is not list or not (known is None or type(known) in (int, float)):
        raise ValueError
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError
    return Leaf(sum_name, name, tuple(shape), dtype, None if known is None else float(known))
