"""Errors of numbers: scikit-learn, and R2 that is undefined rather than wrong."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from aimer2.metrics import regression


def test_by_hand() -> None:
    errors = regression.error_sums(np.array([1.0, 4.0]), np.array([2.0, 2.0]))
    assert errors.tolist() == [1.0, 3.0, 5.0]
    assert regression.mean_error(errors, 2).value == 0.5
    assert regression.mae(errors, 2).value == 1.5
    assert regression.mse(errors, 2).value == 2.5
    assert regression.rmse(errors, 2).value == pytest.approx(2.5**0.5)


def test_scikit_learn_agrees_whatever_the_centre() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(140, 12, 400)
    e = y + rng.normal(1, 5, 400)
    errors = regression.error_sums(e, y)
    assert regression.mse(errors, 400).value == pytest.approx(mean_squared_error(y, e))
    assert regression.mae(errors, 400).value == pytest.approx(mean_absolute_error(y, e))
    for centre in (0.0, 140.0, -50.0):
        assert regression.r2(errors, regression.target_sums(y, centre), 400).value == pytest.approx(r2_score(y, e), rel=1e-9)


def test_the_interval_of_the_mean_absolute_error_is_that_of_the_records() -> None:
    e = np.array([1.0, -2.0, 4.0, 0.5])
    read = regression.mae(regression.error_sums(e, np.zeros(4)), 4)
    half = 1.959963984540054 * np.abs(e).std(ddof=1) / 2
    assert (read.low, read.high) == pytest.approx((max(np.abs(e).mean() - half, 0), np.abs(e).mean() + half))


def test_targets_far_from_zero_need_a_centre_and_say_so() -> None:
    # The shape of NIST's NumAcc4: mean 10000000.2, deviation 0.1. Uncentred sums give a negative variance here.
    y = np.tile([1e7 + 0.1, 1e7 + 0.3], 500)
    p = np.full(1000, 1e7 + 0.2)
    p[::2] = y[::2]
    errors = regression.error_sums(p, y)
    lost = regression.r2(errors, regression.target_sums(y, 0.0), 1000)
    assert lost.value is None
    assert "centre" in lost.note
    assert regression.r2(errors, regression.target_sums(y, 1e7), 1000).value == pytest.approx(0.5, rel=1e-6)


def test_constant_targets_have_no_r2() -> None:
    y = np.full(5, 3.0)
    assert regression.r2(regression.error_sums(y + 1, y), regression.target_sums(y, 3.0), 5).value is None
    assert regression.r2(regression.error_sums(y + 1, y), regression.target_sums(y, 0.0), 5).value is None
