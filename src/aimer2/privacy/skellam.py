"""Whole-number noise for sums in secret: the sum over sites is again of the same kind, so a site can add its share of it.

Agarwal, Kairouz and Liu 2021, The Skellam Mechanism for Differentially Private Federated Learning. Sk(μ) is the difference of two Poisson
numbers of mean μ/2: P(k) = exp(−μ) I_k(μ), variance μ. Sites that add Sk(μ/n) each add Sk(μ) together, unlike with discrete Gaussians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np
import numpy.typing as npt

from aimer2.core.errors import BadInput
from aimer2.core.random import SecureBytes

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LARGEST_VARIANCE = 2.0**70
"""Beyond, the noise would not fit the 64-bit words of a sum in secret anyway."""

_BLOCK = 1 << 15
_CELL_BITS = 12
_LOW = np.uint64((1 << (64 - _CELL_BITS)) - 1)
_FINE = 128.0
"""Standard deviation up to which every whole number has a bin of its own."""


def skellam(source: SecureBytes, variance: float, size: int) -> Integers:
    """Independent whole numbers ``(size,)`` of Sk(μ), μ = ``variance``.

    Rejection from a histogram above the distribution: a bin by Walker's alias method (1977), a place in it, accepted in proportion to its
    probability. Each probability is right to 1e-11 of itself and 1e-19; what is less likely than 2^-64 never comes.

    Raises BadInput for a variance that is not between 0 and 2^70.
    """
    histogram = _histogram(variance)
    drawn = np.empty(size, np.int64)
    filled = 0
    while filled < size:
        accepted = _propose(source, histogram, min(_BLOCK, size - filled + 16))[: size - filled]
        drawn[filled : filled + len(accepted)] = accepted
        filled += len(accepted)
    return drawn


def largest(variance: float) -> int:
    """The largest magnitude that is ever drawn. Raises BadInput as `skellam`."""
    shift, half = _span(variance)
    return half << shift


def renyi(order: float, variance: float, l1: float, l2: float) -> float:
    """A bound on the Rényi divergence of this order between Sk(μ) and itself shifted by one patient's part in the sum (theorem 3.5).

    ``l1`` and ``l2`` are the norms of that part, in steps of the grid. The theorem is for whole orders; divergence grows with the order, so any
    other takes the next whole one's.
    """
    whole = max(2, math.ceil(order))
    near = ((2 * whole - 1) * l2**2 + 6 * l1) / (4 * variance**2)
    return whole * l2**2 / (2 * variance) + min(near, 3 * l1 / (2 * variance))


def log_probability(k: Integers, variance: float) -> Floats:
    """ln P(k) for a variance from 2^12 on: Debye's expansion of I_k(μ) (NIST DLMF 10.41.3), whose next term is below 1e-15."""
    x = k.astype(np.float64)
    root = np.hypot(x, variance)
    slope = (x / root) ** 2
    first = (3 - 5 * slope) / (24 * root)
    second = (81 - 462 * slope + 385 * slope**2) / (1152 * root**2)
    third = (30375 - 369603 * slope + 765765 * slope**2 - 425425 * slope**3) / (414720 * root**3)
    # Not root − variance: both are large where the exponent is small.
    exponent = x * x / (root + variance) - x * np.arcsinh(x / variance)
    result: Floats = exponent - 0.5 * np.log(2 * np.pi * root) + np.log1p(first + second + third)
    return result


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Histogram:
    """Bins of 2^shift whole numbers from ``lowest`` on. Cell j of the alias table keeps bin j below ``keep[j]``, else gives ``other[j]``.

    ``height`` is the largest ln P in a bin; what lies below ``sure`` of it in every place is accepted without asking.
    """

    variance: float
    shift: int
    lowest: int
    keep: npt.NDArray[np.uint64]
    other: npt.NDArray[np.int16]
    height: Floats
    sure: Floats


def _propose(source: SecureBytes, histogram: _Histogram, size: int) -> Integers:
    word = source.words(size)
    cell = (word >> np.uint64(64 - _CELL_BITS)).astype(np.intp)
    bins = np.where((word & _LOW) < histogram.keep[cell], cell, histogram.other[cell])
    if histogram.shift == 0:
        return bins + histogram.lowest
    word = source.words(size)
    place = (word >> np.uint64(64 - histogram.shift)).astype(np.int64)
    k = ((bins + (histogram.lowest >> histogram.shift)) << histogram.shift) + place
    uniform = ((source.words(size) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    accepted = uniform < histogram.sure[bins]
    asked = np.flatnonzero(~accepted)
    ratio = log_probability(k[asked], histogram.variance) - histogram.height[bins[asked]]
    accepted[asked] = np.log(uniform[asked]) < ratio
    return k[accepted]


def _span(variance: float) -> tuple[int, int]:
    """How many bits of a number a bin holds, and how many bins lie on either side of 0."""
    if not 0 < variance <= LARGEST_VARIANCE:
        raise BadInput("The variance of Skellam noise is not between 0 and 2^70.")
    deviation = math.sqrt(variance)
    shift = max(0, math.ceil(math.log2(deviation / _FINE)))
    # Beyond 9.4 standard deviations (and more where there are few bins: Poisson tails) lies less than 2^-64.
    return shift, min(1 << (_CELL_BITS - 1), math.ceil(9.4 * deviation / 2**shift) + 40)


@lru_cache(maxsize=16)
def _histogram(variance: float) -> _Histogram:
    shift, half = _span(variance)
    starts = np.arange(-half, half, dtype=np.int64) << shift
    if shift == 0:
        height = sure = np.log(np.maximum(_probabilities(variance, half), 1e-300))
    else:
        ends = starts + (1 << shift) - 1
        height = log_probability(np.where(starts >= 0, starts, ends), variance)
        sure = np.exp(log_probability(np.where(starts >= 0, ends, starts), variance) - height) * (1 - 1e-9)
    keep, other = _alias(np.exp(height))
    return _Histogram(variance, shift, -(half << shift), keep, other, height, sure)


def _probabilities(variance: float, half: int) -> Floats:
    """P(k) for k from −half to half − 1, by Miller's backward recurrence I_(k−1) = I_(k+1) + (2k/μ) I_k, divided by its sum."""
    upward = [0.0, 1e-290]
    for k in range(2 * half + 60, 0, -1):
        upward.append(upward[-2] + 2 * k / variance * upward[-1])
        if upward[-1] > 1e250:
            upward = [value * 1e-250 for value in upward]
    values = np.array(upward[:0:-1])
    whole = np.concatenate([values[half:0:-1], values[:half]])
    probabilities: Floats = whole / (values[0] + 2 * math.fsum(values[1:]))
    return probabilities


def _alias(weights: Floats) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int16]]:
    """Vose's table (1991) in whole numbers: 2^12 cells of 2^52 each, which the bins share by weight."""
    cells, volume = 1 << _CELL_BITS, 1 << (64 - _CELL_BITS)
    total = math.fsum(weights)
    shares = [int(weight / total * 2.0**64) for weight in weights] + [0] * (cells - len(weights))
    # What rounding left over goes to the likeliest bin, of which it is less than 1e-13.
    shares[int(np.argmax(weights))] += (1 << 64) - sum(shares)
    keep, other = [volume] * cells, list(range(cells))
    small = [cell for cell, share in enumerate(shares) if share < volume]
    large = [cell for cell, share in enumerate(shares) if share >= volume]
    while small and large:
        one, giver = small.pop(), large.pop()
        keep[one], other[one] = shares[one], giver
        shares[giver] -= volume - shares[one]
        (small if shares[giver] < volume else large).append(giver)
    return np.array(keep, np.uint64), np.array(other, np.int16)
