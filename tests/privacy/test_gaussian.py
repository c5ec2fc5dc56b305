"""Gaussian noise is Gaussian, out to its tails, and is never drawn twice for one number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import kstest

from aimer2.core import tree
from aimer2.core.errors import BadInput, BadUpdate
from aimer2.core.random import SecureBytes
from aimer2.privacy.gaussian import gaussian, noisy

KEY = bytes(range(32))


def test_it_is_gaussian() -> None:
    drawn = gaussian(SecureBytes(KEY), 3.0, 400_000)
    assert kstest(drawn / 3.0, "norm").pvalue > 1e-3
    assert (np.abs(drawn) > 4 * 3.0).mean() == pytest.approx(6.33e-5, rel=0.6)
    # Across the block's end too, neighbours have nothing to do with each other.
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 5 / math.sqrt(len(drawn))


def test_the_two_that_come_of_the_same_numbers_are_independent() -> None:
    drawn = gaussian(SecureBytes(KEY), 1.0, 8192 * 40).reshape(40, 2, 4096)
    first, second = drawn[:, 0].ravel(), drawn[:, 1].ravel()
    for one, other in ((first, second), (first**2, second**2), (np.abs(first), second)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / math.sqrt(first.size)


def test_each_is_made_of_four() -> None:
    """Four pairs of uniform numbers for every two: 32 bytes of the stream each."""
    source, same = SecureBytes(KEY), SecureBytes(KEY)
    drawn = gaussian(source, 1.0, 10)
    uniform = (same.words(40).reshape(8, 5) >> np.uint64(11)) * 2.0**-53
    radius = np.sqrt(-2 * np.log(uniform[:4] + 2.0**-53))
    turned = radius * np.exp(2j * np.pi * uniform[4:])
    np.testing.assert_allclose(drawn, np.concatenate((turned.real.sum(axis=0), turned.imag.sum(axis=0))) / 2, rtol=1e-9)
    assert (source.read(16) == same.read(16)).all()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_noisy_tree(dtype: str) -> None:
    clear = {"w": np.full((300, 1000), 7, dtype)}
    loaded = tree.load(noisy(clear, 0.5, SecureBytes(KEY))["w"])
    assert (loaded.dtype, loaded.shape) == (clear["w"].dtype, (300, 1000))
    assert loaded.mean() == pytest.approx(7, abs=0.01)
    assert loaded.std() == pytest.approx(0.5, rel=0.01)


def test_noise_is_drawn_once() -> None:
    leaf = noisy({"w": np.zeros(10)}, 1.0, SecureBytes(KEY))["w"]
    leaf.read(0, 5)  # type: ignore[union-attr]
    with pytest.raises(AssertionError, match="once"):
        leaf.read(0, 5)  # type: ignore[union-attr]


def test_whole_numbers_and_no_noise_are_refused() -> None:
    with pytest.raises(BadUpdate):
        noisy({"n": np.array([1])}, 1.0, SecureBytes(KEY))
    for deviation in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(BadInput):
            noisy({"w": np.zeros(1)}, deviation, SecureBytes(KEY))
