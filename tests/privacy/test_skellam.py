"""Skellam noise has its distribution: by its table, exactly, and by what is drawn."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy.special import ive
from scipy.stats import chisquare

from aimer2.core.errors import BadInput
from aimer2.core.random import SecureBytes
from aimer2.privacy.skellam import _histogram, log_probability, skellam

KEY = bytes(range(32))


@pytest.mark.parametrize("variance", [0.01, 1.0, 37.5, 900.0, 16_000.0, 16_385.0, 1e6])
def test_drawn_numbers_follow_the_distribution(variance: float) -> None:
    drawn = skellam(SecureBytes(KEY), variance, 300_000)
    k = np.arange(drawn.min(), drawn.max() + 1)
    expected = ive(np.abs(k), variance) * len(drawn)
    observed = np.bincount(drawn - k[0], minlength=len(k)).astype(float)
    # Neighbours together until enough is expected of each group.
    groups = np.floor(np.cumsum(expected) / max(30.0, len(drawn) / 400)).astype(int)
    _, groups = np.unique(groups, return_inverse=True)
    observed, expected = np.bincount(groups, observed), np.bincount(groups, expected)
    assert chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("variance", [0.01, 1.0, 37.5, 900.0, 16_000.0])
def test_the_table_is_the_distribution(variance: float) -> None:
    """Every cell of the alias table has 2^52 of 2^64 draws; what it gives to each number is added up and compared."""
    histogram = _histogram(variance)
    cells = np.arange(len(histogram.keep))
    kept = histogram.keep.astype(np.float64)
    mass = np.bincount(cells, kept, 4096) + np.bincount(histogram.other, 2.0**52 - kept, 4096)
    k = np.arange(4096) + histogram.lowest
    exact = ive(np.abs(k), variance)
    given = mass / 2.0**64
    assert given == pytest.approx(exact, rel=1e-11, abs=1e-19)
    there = (k >= histogram.lowest) & (k < -histogram.lowest) & (exact > 1e-290)
    assert histogram.height[there[: len(histogram.height)]] == pytest.approx(np.log(exact[there]), abs=1e-9)


@pytest.mark.parametrize("variance", [5000.0, 2.0**20])
def test_probabilities_by_expansion(variance: float) -> None:
    k = (np.arange(-9, 10) * math.sqrt(variance)).astype(np.int64)
    assert log_probability(k, variance) == pytest.approx(np.log(ive(np.abs(k), variance)), abs=1e-10)


@pytest.mark.parametrize("variance", [2.0**15, 2.0**34, 2.0**70])
def test_bins_stand_above_the_distribution(variance: float) -> None:
    """Rejection is right only where no number in a bin is likelier than the bin's height, nor less likely than what is accepted unasked."""
    histogram = _histogram(variance)
    bins = np.arange(len(histogram.height))
    starts = (bins << histogram.shift) + histogram.lowest
    for place in (0, 1, 1 << (histogram.shift - 1), (1 << histogram.shift) - 1):
        ratio = log_probability(starts + place, variance) - histogram.height
        assert (ratio <= 1e-12).all()
        assert (np.exp(ratio) >= histogram.sure).all()


def test_huge_noise_has_its_moments() -> None:
    drawn = skellam(SecureBytes(KEY), 2.0**46, 1_000_000) / 2.0**23
    assert abs(drawn.mean()) < 5e-3
    assert drawn.var() == pytest.approx(1, abs=7e-3)
    assert (drawn**4).mean() == pytest.approx(3, abs=0.05)


def test_the_sum_of_shares_is_the_noise() -> None:
    """Ten sites each add Sk(μ/10): together Sk(μ), which no discrete Gaussian does."""
    source = SecureBytes(KEY)
    total = np.sum([skellam(source, 0.4, 200_000) for _ in range(10)], axis=0)
    k = np.arange(-6, 7)
    expected = ive(np.abs(k), 4.0)
    observed = np.array([(total == value).sum() for value in k])
    assert chisquare(observed, expected / expected.sum() * observed.sum()).pvalue > 1e-3


@pytest.mark.parametrize("size", [0, 1, 31, 70_000])
def test_as_many_as_asked_for(size: int) -> None:
    drawn = skellam(SecureBytes(), 1e9, size)
    assert (drawn.shape, drawn.dtype) == ((size,), np.int64)


def test_it_is_quick() -> None:
    """About 40 million a second on one core, undisturbed; a hundred-fold loss is a loop in Python."""
    started = time.perf_counter()
    skellam(SecureBytes(), 2.0**40, 1_000_000)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("variance", [0.0, -1.0, math.nan, math.inf, 2.0**71])
def test_a_variance_in_range(variance: float) -> None:
    with pytest.raises(BadInput):
        skellam(SecureBytes(), variance, 1)
