"""Numbers as words that add up exactly: what is masked, and what the sum is read from.

Words add modulo 2^32, 2^64 or 2^128, and ``Layout`` leaves room for as many sites as there are: the sum of the words is the word of the
sum. Integers are exact. An unranged float keeps all bits above 2^-60, so its sum does not depend on the order of the sites.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from aimer2.core.errors import BadUpdate
from aimer2.core.said import say
from aimer2.core.tree import NumpyArray
from aimer2.secure_aggregation.layout import INTEGERS, Leaf

_RESOLUTION = 2.0**60
_SIGNED = {32: "<i4", 64: "<i8"}


@final
@dataclass(frozen=True, slots=True)
class Encoded:
    """``words``: flat, two after each other (low, high) where a coordinate has two. ``saturated``: values that were clipped to the range.
    ``largest``: the largest magnitude before that."""

    words: NumpyArray
    saturated: int
    largest: float


def encode(values: NumpyArray, leaf: Leaf, sites: int) -> Encoded:
    """A flat slice of a leaf as words.

    Raises BadUpdate for a value that is not finite, and for one too large where no range is known: nothing is clipped that nobody has asked for.
    """
    if not len(values):
        return Encoded(np.zeros(0, leaf.word), 0, 0.0)
    if leaf.dtype in INTEGERS:
        return _encode_integers(values, leaf, sites)
    largest = float(max(values.max(), -values.min()))
    if not np.isfinite(largest):
        raise BadUpdate(say("{name} of {sum} has a value that is not finite.", name=leaf.name, sum=leaf.sum))
    reach = leaf.reach
    if reach is None:
        _check_size(largest, largest_real(sites), leaf)
        return Encoded(_two_limbs(values), 0, largest)
    if leaf.range is None:
        _check_size(largest, reach, leaf)
    most = limit(leaf.bits, sites)
    scale = most / reach
    scaled = np.multiply(values, scale, dtype=np.float64)
    np.rint(scaled, out=scaled)
    saturated = 0
    if largest * scale > most:
        saturated = int(np.count_nonzero(np.abs(values) > np.float64(reach)))
        np.clip(scaled, -most, most, out=scaled)
    return Encoded(scaled.astype(_SIGNED[leaf.bits]).view(leaf.word), saturated, largest)


def decode(words: NumpyArray, leaf: Leaf, sites: int) -> NumpyArray:
    """The sum that the added words stand for: flat, of the leaf's type."""
    if leaf.dtype in INTEGERS:
        return words.view(_SIGNED[leaf.bits])
    if leaf.reach is None:
        total = _real(words)
    else:
        step = leaf.reach / limit(leaf.bits, sites)
        total = np.multiply(words.view(_SIGNED[leaf.bits]), step, dtype=np.float64)
    return total.astype(leaf.dtype, copy=False)


def add(total: NumpyArray, words: NumpyArray, limbs: int) -> None:
    """``total += words`` modulo the words' size; with two limbs the low one carries into the high one."""
    np.add(total, words, out=total)
    if limbs == 2:
        np.add(total[1::2], total[::2] < words[::2], out=total[1::2])


def subtract(total: NumpyArray, words: NumpyArray, limbs: int) -> None:
    """The inverse of ``add``."""
    if limbs == 2:
        np.subtract(total[1::2], (total[::2] < words[::2]).astype(np.uint64), out=total[1::2])
    np.subtract(total, words, out=total)


def largest_real(sites: int) -> float:
    """The largest magnitude that an unranged float can have."""
    return 2.0**66 / sites


def limit(bits: int, sites: int) -> float:
    """The largest word of one site: as many as there are sites do not overflow, and it is exact as a float64."""
    most = (2 ** (bits - 1) - 1) // sites
    spare = max(most.bit_length() - 53, 0)
    return float(most >> spare << spare)


def _encode_integers(values: NumpyArray, leaf: Leaf, sites: int) -> Encoded:
    _check_size(max(int(values.max()), -int(values.min())), (2 ** (leaf.bits - 1) - 1) // sites, leaf)
    return Encoded(values.astype(_SIGNED[leaf.bits]).view(leaf.word), 0, 0.0)


def _check_size(largest: float, limit: float, leaf: Leaf) -> None:
    if largest > limit:
        raise BadUpdate(
            say("{name} of {sum} has a value too large to be summed in secret.", name=leaf.name, sum=leaf.sum),
            remedy="Give the values a smaller unit.",
        )


def _two_limbs(values: NumpyArray) -> NumpyArray:
    magnitude = np.rint(np.abs(values, dtype=np.float64) * _RESOLUTION)
    high = np.floor(magnitude * 2.0**-64)
    words = np.empty(2 * len(values), "<u8")
    words[::2] = magnitude - high * 2.0**64
    words[1::2] = high
    _negate(words, np.signbit(values))
    return words


def _real(words: NumpyArray) -> NumpyArray:
    magnitude = words.copy()
    negative = words[1::2] >> np.uint64(63) == 1
    _negate(magnitude, negative)
    total = magnitude[1::2] * 2.0**64 + magnitude[::2]
    total /= _RESOLUTION
    np.negative(total, out=total, where=negative)
    return total


def _negate(words: NumpyArray, where: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
    """Two's complement over both limbs."""
    low, high = words[::2], words[1::2]
    np.invert(high, out=high, where=where)
    np.add(high, low == 0, out=high, where=where)
    np.negative(low, out=low, where=where)
