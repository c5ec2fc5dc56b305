"""Whether words that a coordinator receives can be told from noise.

Each measure is in standard deviations of what uniform words give: below 5 or so nothing was found. That proves no security (words under a mask that
somebody else knows look as random); it finds masks that were left out, used twice, or are not uniform.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any, final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

FOUND = 6.0
"""Standard deviations from which on something was found: by chance once in 500 million."""


@final
@dataclass(frozen=True, slots=True)
class View:
    """What was measured in words, each in standard deviations. ``own``: correlation with the words before masking, where those are known."""

    bytes: float
    """Chi-square of how often each byte occurs, each place in the word apart."""
    bits: float
    """How many bits are set."""
    neighbours: float
    """Correlation of each word with the next."""
    own: float

    @property
    def largest(self) -> float:
        return max(abs(self.bytes), abs(self.bits), abs(self.neighbours), abs(self.own))

    @property
    def noise(self) -> bool:
        """Whether nothing was found."""
        return self.largest < FOUND


def measure(words: npt.NDArray[Any], before: npt.NDArray[Any] | None = None) -> View:
    """Of unsigned words, in the order in which they travel; at least some hundreds."""
    flat = np.ascontiguousarray(words).reshape(-1)
    ones = int(np.unpackbits(flat.view(np.uint8)).sum())
    bits = 8 * flat.nbytes
    own = 0.0 if before is None else correlation(_signed(flat), _signed(np.ascontiguousarray(before).reshape(-1)))
    signed = _signed(flat)
    return View(_bytes(flat), (ones - bits / 2) / sqrt(bits / 4), correlation(signed[:-1], signed[1:]), own)


def correlation(one: Floats, other: Floats) -> float:
    """Pearson's, in standard deviations of what independent numbers give; 0 where one of them does not vary."""
    left, right = one - one.mean(), other - other.mean()
    length = float(np.linalg.norm(left) * np.linalg.norm(right))
    return 0.0 if length == 0 else float(left @ right) / length * sqrt(len(one))


def difference(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> View:
    """Of the words of two messages subtracted: a mask that was used for both falls out, and what is left is no noise."""
    with np.errstate(over="ignore"):
        return measure(np.asarray(one).reshape(-1) - np.asarray(other).reshape(-1))


def repeated(starts: list[bytes]) -> int:
    """How many of these beginnings of masks were there before: of 2^128 none ever is, of 2^28 some among 50,000."""
    return len(starts) - len(set(starts))


def _bytes(words: npt.NDArray[Any]) -> float:
    """Chi-square over all of the word's bytes, each place apart, to a standard normal (Wilson and Hilferty 1931)."""
    table = words.view(np.uint8).reshape(len(words), -1)
    expected = len(words) / 256
    total = sum(float(((np.bincount(place, minlength=256) - expected) ** 2).sum()) / expected for place in table.T)
    freedom = 255 * table.shape[1]
    return float(((total / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / sqrt(2 / (9 * freedom)))


def _signed(words: npt.NDArray[Any]) -> Floats:
    """As the numbers that they stand for, so that small ones are near zero on both sides."""
    return words.view(f"<i{words.dtype.itemsize}").astype(np.float64)
