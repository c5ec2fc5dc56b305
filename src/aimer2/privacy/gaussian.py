"""Continuous Gaussian noise from bytes that nobody can foretell.

A single floating-point Gaussian has gaps by which its sum with a secret can tell the secret (Mironov 2012). So each is the half sum of four
(Holohan and Braghin 2021): to find one back an attacker would have to match four at once. Where a guarantee must hold to the last bit, add
whole numbers: `aimer2.privacy.skellam`.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np
import numpy.typing as npt

from aimer2.core import tree
from aimer2.core.errors import BadInput, BadUpdate
from aimer2.core.random import SecureBytes
from aimer2.core.said import say
from aimer2.core.tree import Array, Tree

_BLOCK = 1 << 13


def gaussian(source: SecureBytes, deviation: float, size: int) -> npt.NDArray[np.float64]:
    """Independent Gaussian numbers ``(size,)`` of mean 0 and the given standard deviation."""
    drawn = np.empty(size)
    for start in range(0, size, _BLOCK):
        part = drawn[start : start + _BLOCK]
        _four(source, part)
    drawn *= deviation / 2
    return drawn


def _four(source: SecureBytes, into: npt.NDArray[np.float64]) -> None:
    """Writes sums of four standard Gaussians; from each two uniform numbers come two Gaussians (Box and Muller 1958), one for either half."""
    half = (len(into) + 1) // 2
    words = source.words(8 * half)
    words >>= np.uint64(11)
    uniform = words.astype(np.float64).reshape(8, half)
    # In (0, 1], for the logarithm; the farthest that 53 bits reach is 8.6 standard deviations.
    radius = uniform[:4]
    radius += 1.0
    radius *= 2.0**-53
    np.sqrt(np.multiply(np.log(radius, out=radius), -2.0, out=radius), out=radius)
    angle = uniform[4:]
    angle *= 2.0 * np.pi * 2.0**-53
    into[:half] = (radius * np.cos(angle)).sum(axis=0)
    into[half:] = (radius * np.sin(angle)).sum(axis=0)[: len(into) - half]


def noisy(clear: Tree, deviation: float, source: SecureBytes) -> dict[str, Array]:
    """The tree plus Gaussian noise of this standard deviation on every number, drawn while it is read.

    Added in float64 and then rounded to the leaf's own type. Each leaf can be read once, from its start to its end: a second reading would have other
    noise, and the mean of two tells more than one.

    Raises BadUpdate for whole numbers.
    """
    if not 0 < deviation < np.inf:
        raise BadInput("The noise's standard deviation is not a positive number.")
    for name, leaf in clear.items():
        if leaf.dtype.kind != "f":
            raise BadUpdate(say("{name} is {dtype}; Gaussian noise is for floating-point numbers.", name=name, dtype=leaf.dtype.name))
    return {name: Noisy(leaf, deviation, source) for name, leaf in clear.items()}


@final
class Noisy:
    """An array with noise, readable once and in order; raises AssertionError otherwise."""

    __slots__ = ("_clear", "_deviation", "_position", "_source", "dtype", "shape")

    def __init__(self, clear: Array, deviation: float, source: SecureBytes) -> None:
        self._clear = clear
        self._deviation = deviation
        self._source = source
        self._position = 0
        self.shape = clear.shape
        self.dtype = clear.dtype

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        if start != self._position:
            raise AssertionError("Noise is drawn once: an array with noise is read from its start to its end.")
        self._position = stop
        noise = gaussian(self._source, self._deviation, stop - start)
        noise += tree.read(self._clear, start, stop)
        return noise.astype(self.dtype)
