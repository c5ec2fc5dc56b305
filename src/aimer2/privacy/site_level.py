"""A whole site's part in a sum, shortened and under its share of the noise, in whole numbers: so nobody ever sees a sum without noise.

Agarwal, Kairouz, Liu 2021, "The Skellam Mechanism for Differentially Private Federated Learning": a vector is shortened to its clip norm, scaled,
rounded, and each site adds Skellam noise, which adds up to Skellam noise. The grid is so fine that rounding to the nearest needs no draw: it
lengthens a vector of d numbers by √d/2 steps at most, and the vector is shortened by as much before, so that its length in steps never exceeds what
is accounted.

Andrew, Thakkar, McMahan, Ramaswamy 2021, "Differentially Private Learning with Adaptive Clipping", algorithm 1: every site also tells whether it was
within the clip norm, as ±1/2 under noise σ_b, and the clip norm follows C ← C·exp(−η·(b − γ)) to the quantile γ of the sites' lengths. Theorem 1: the
update then takes noise z_Δ = (z⁻² − (2σ_b)⁻²)^(−1/2), and both together are one mechanism of noise z. Here that is one more coordinate of the same
vector, whose length takes `COUNT_SHARE` of the square.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from aimer2.core import tree
from aimer2.core.errors import BadInput, BadUpdate
from aimer2.core.random import SecureBytes
from aimer2.core.tree import Array, NumpyArray, Tree
from aimer2.privacy.clipping import norm
from aimer2.privacy.skellam import LARGEST_VARIANCE, largest, skellam

LEAST_STEPS = 1 << 16
"""Into so many steps at least a site's largest part is divided: what the accounting counts with."""

LARGEST_SIZE = 1 << 30
"""Numbers that a site's part may have."""

COUNT_SHARE = 0.1
"""Of 1/z², what telling whether a site was within the clip norm takes: 2σ_b = z/√0.1, z_Δ = 1.054 z."""

LEARNING_RATE = 0.2
"""η of the clip norm, as in the paper."""

_FARTHEST = 2.0**40
"""How far the clip norm may go from the first one, either way."""

_MARGIN = 1 - 2.0**-22
"""Norms are added up in float64; nothing may be longer than the clip norm."""

_ROUNDING = 16
"""Rounding takes no more than this part of the length; where it would, words are wide."""


@final
@dataclass(frozen=True, slots=True)
class Grid:
    """``steps``: a site's largest L2 norm; ``variance``: of one site's noise; ``bits``: of a word. The same at every site and the coordinator."""

    steps: int
    variance: float
    bits: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(f"int{self.bits}")


def grid(sites: int, honest: int, noise_multiplier: float, size: int) -> Grid:
    """The finest grid on which the words of all sites add up without wrapping, of 32 bits where that is fine enough for ``size`` numbers.

    ``honest`` sites, or more, whose noise nobody can subtract are in every sum: their noise alone has ``noise_multiplier`` times the largest norm.

    Raises BadInput where no grid is fine enough: for more than 2^30 numbers, or noise out of all proportion.
    """
    if not 0 < honest <= sites or not 0 < noise_multiplier < math.inf or not 0 < size <= LARGEST_SIZE:
        raise BadInput("There is no grid for so much noise, or so many numbers.")
    for bits, most in ((32, 24), (64, 40)):
        for power in range(most, LEAST_STEPS.bit_length() - 2, -1):
            steps = 1 << power
            variance = (noise_multiplier * steps) ** 2 / honest
            fits = variance <= LARGEST_VARIANCE and sites * (steps + largest(variance)) < 2 ** (bits - 1)
            if fits and _ROUNDING * math.sqrt(size) / 2 <= steps:
                return Grid(steps, variance, bits)
    raise BadInput("There is no grid for so much noise, or so many numbers.")


@final
@dataclass(frozen=True, slots=True)
class SitePart:
    """How a site's part becomes words, and the sum of words numbers again. All of it is public; ``counts``: whether the clip norm follows."""

    grid: Grid
    clip_norm: float
    size: int
    counts: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.clip_norm < math.inf:
            raise BadInput("The clip norm is not a positive number.")

    @property
    def count_steps(self) -> int:
        """What a site adds to, or takes from, the count: 1/2 of a site."""
        return math.floor(self.grid.steps * math.sqrt(COUNT_SHARE)) if self.counts else 0

    @property
    def scale(self) -> float:
        """Steps per unit, so that a part as long as the clip norm has, rounded and with the count, no more than all steps."""
        return (math.sqrt(self.grid.steps**2 - self.count_steps**2) - math.sqrt(self.size) / 2) * _MARGIN / self.clip_norm

    def rounded(self, part: Tree, weight: float = 1.0) -> tuple[dict[str, Array], bool]:
        """The part over its weight, shortened, in steps without noise: lazy, and for the site alone; and whether it was within the clip norm.

        Raises BadUpdate for another number of numbers, whole ones, what is not finite, and a weight that is not above 0.
        """
        if sum(tree.size(leaf) for leaf in part.values()) != self.size or any(leaf.dtype.kind != "f" for leaf in part.values()):
            raise BadUpdate("The part does not have the numbers that its noise was counted for.")
        length = norm({"part": part}) / weight if weight > 0 else math.nan
        if not math.isfinite(length):
            raise BadUpdate("The part is not finite or too long to measure, or has no weight.")
        within = length <= self.clip_norm
        factor = self.scale / weight * (1.0 if within else self.clip_norm / length)
        dtype = self.grid.dtype

        def stepped(values: NumpyArray) -> NumpyArray:
            return np.rint(np.multiply(values, factor, dtype=np.float64)).astype(dtype)

        return dict(tree.map(stepped, part)), within

    def noisy(self, part: Tree, weight: float, source: SecureBytes) -> tuple[dict[str, Array], NumpyArray]:
        """The part as it may be summed, with this site's noise, drawn while it is read (each leaf once, in order), and the word that tells whether
        it was within the clip norm, with noise too. Raises as `rounded`."""
        steps, within = self.rounded(part, weight)
        told = self.count_steps if within else -self.count_steps
        count = (skellam(source, self.grid.variance, 1) + told).astype(self.grid.dtype)
        return {name: _Noisy(leaf, self.grid, source) for name, leaf in steps.items()}, count

    def read(self, words: Tree) -> dict[str, Array]:
        """The sum of the sites' parts, with its noise; lazy."""
        step = 1 / self.scale
        kind = np.float32 if self.grid.bits == 32 else np.float64
        return dict(tree.map(lambda values: np.multiply(values, step, dtype=np.float64).astype(kind), words))

    def share_within(self, words: NumpyArray, sites: int) -> float:
        """b: the share of so many sites that were within the clip norm, by the noisy count; from 0 to 1, so that noise moves no more than data."""
        told = float(np.asarray(words).reshape(-1)[0]) / (2 * self.count_steps * sites) + 0.5
        return min(max(told, 0.0), 1.0)


def next_clip_norm(clip_norm: float, first: float, share_within: float, quantile: float) -> float:
    """C·exp(−η·(b − γ)), and no farther than 2^40 from the first."""
    wanted = clip_norm * math.exp(-LEARNING_RATE * (share_within - quantile))
    return min(max(wanted, first / _FARTHEST), first * _FARTHEST)


@final
class _Noisy:
    """Whole numbers with noise, readable once and in order; raises AssertionError otherwise: a second reading would have other noise."""

    __slots__ = ("_clear", "_grid", "_position", "_source", "dtype", "shape")

    def __init__(self, clear: Array, grid: Grid, source: SecureBytes) -> None:
        self._clear = clear
        self._grid = grid
        self._source = source
        self._position = 0
        self.shape = clear.shape
        self.dtype = grid.dtype

    def read(self, start: int, stop: int) -> NumpyArray:
        if start != self._position:
            raise AssertionError("Noise is drawn once: words with noise are read from start to end.")
        self._position = stop
        noise = skellam(self._source, self._grid.variance, stop - start)
        noise += tree.read(self._clear, start, stop)
        return noise.astype(self.dtype)
