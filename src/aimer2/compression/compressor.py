"""What a compression must offer, and what it works with: arrays that are computed block by block, and its draws.

A compression sees one array of a site's ``difference`` at a time, cut into blocks of a fixed length. So neither half ever holds a large model,
and what travels has the same names, shapes and types at every site, whatever its numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Protocol, TypeAlias, final

import numpy as np

from aimer2.core.random import stream
from aimer2.core.task import SiteId
from aimer2.core.tree import Array, NumpyArray, read

BLOCK = 1 << 16
"""Elements of an array that are compressed together; a position within a block fits into 16 bits."""

Parts: TypeAlias = Mapping[str, Array]
"""What travels in the place of one array, by the name of the part; the empty name where it is one array."""


@final
@dataclass(frozen=True, slots=True)
class Form:
    """Shape and type of an array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        return prod(self.shape)


def form_of(array: Array) -> Form:
    return Form(tuple(array.shape), np.dtype(array.dtype))


@final
@dataclass(frozen=True, slots=True)
class Draws:
    """The random draws of one array in one round: from the study's seed, so that a replay gives the same bits."""

    seed: int
    round_number: int
    leaf: str
    site: SiteId = ""

    def shared(self, block: int) -> np.random.Generator:
        """The same at every site and at the coordinator."""
        return stream(self.seed, "compression", self.round_number, self.leaf, block)

    def own(self, block: int) -> np.random.Generator:
        """Of this site alone."""
        return stream(self.seed, "compression", self.round_number, self.leaf, block, self.site)


class Compressor(Protocol):
    """A compression that a study can name: a frozen dataclass whose fields are its parameters."""

    linear: ClassVar[bool]
    """Whether the sum of compressed updates is the compressed sum: only then is it allowed under secure aggregation and differential privacy."""
    aligned: ClassVar[bool]
    """Whether all sites send the same coordinates in a round, so that their updates can be compared one by one."""
    remembers: ClassVar[bool]
    """Whether what is left out stays at the site and is added to its next update (error feedback)."""

    def pack(self, array: Array, draws: Draws) -> Parts:
        """At the site."""
        ...

    def forms(self, form: Form) -> Mapping[str, Form]:
        """Of the parts that travel in the place of an array of this form."""
        ...

    def restore(self, parts: Parts, form: Form, draws: Draws) -> Array:
        """At the coordinator, from parts that have the right forms, with whatever numbers in them; where these make no sense, what comes out
        is not finite."""
        ...


@final
class Blockwise:
    """A flat array whose blocks are computed as they are read; holds the last one.

    ``length``: elements of a block; ``compute`` gives the block of that number, the last one shorter.
    """

    __slots__ = ("_compute", "_kept", "_length", "dtype", "shape")

    def __init__(self, form: Form, length: int, compute: Callable[[int], NumpyArray]) -> None:
        self.shape, self.dtype = form.shape, form.dtype
        self._length = max(1, length)
        self._compute = compute
        self._kept: tuple[int, NumpyArray] | None = None

    def read(self, start: int, stop: int) -> NumpyArray:
        parts = []
        for number in range(start // self._length, -(-stop // self._length)):
            low = number * self._length
            parts.append(self._block(number)[max(0, start - low) : stop - low])
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)

    def _block(self, number: int) -> NumpyArray:
        kept = self._kept
        if kept is None or kept[0] != number:
            kept = self._kept = (number, self._compute(number))
        return kept[1]


def block_of(array: Array, number: int, size: int) -> NumpyArray:
    """The block of that number of an array of so many elements."""
    return read(array, number * BLOCK, min((number + 1) * BLOCK, size))


def share(fraction: float, length: int) -> int:
    """How many elements of so many are kept: at least one."""
    return min(length, max(1, int(np.ceil(fraction * length - 1e-9)))) if length else 0


def kept_of(fraction: float, size: int) -> int:
    """How many elements of an array of so many are kept, block by block."""
    whole, rest = divmod(size, BLOCK)
    return whole * share(fraction, BLOCK) + share(fraction, rest)
