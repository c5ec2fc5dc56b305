"""Probabilities against outcomes: scikit-learn's Brier score and log loss, bins by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from aimer2.metrics import calibration


def drawn(n: int = 500) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    p = rng.random(n)
    return p, (rng.random(n) < p).astype(int)


def test_by_hand() -> None:
    p, y = np.array([0.1, 0.15, 0.8, 1.0]), np.array([0, 1, 1, 1])
    table = calibration.bins(p, y)
    assert table[0].tolist() == [0, 2, 0, 0, 0, 0, 0, 0, 1, 1]
    assert table[1] == pytest.approx([0, 0.25, 0, 0, 0, 0, 0, 0, 0.8, 1.0])
    assert table[2].tolist() == [0, 1, 0, 0, 0, 0, 0, 0, 1, 1]
    assert calibration.expected_error(table).value == pytest.approx((0.75 + 0.2 + 0) / 4)
    brier = calibration.brier_sums(p, y)
    assert brier[0] == pytest.approx(0.01 + 0.7225 + 0.04)
    assert brier[1] == pytest.approx(0.01**2 + 0.7225**2 + 0.04**2)
    assert calibration.in_the_large(table, brier).value == pytest.approx((3 - 2.05) / 4)


def test_binary_against_scikit_learn() -> None:
    p, y = drawn()
    assert calibration.mean_loss(calibration.brier_sums(p, y), 500).value == pytest.approx(brier_score_loss(y, p))
    assert calibration.mean_loss(calibration.log_loss_sums(p, y), 500).value == pytest.approx(log_loss(y, p))


def test_several_classes_against_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    p, y = rng.dirichlet(np.ones(4), 300), rng.integers(0, 4, 300)
    assert calibration.mean_loss(calibration.log_loss_sums(p, y), 300).value == pytest.approx(log_loss(y, p))
    assert calibration.mean_loss(calibration.brier_sums(p, y), 300).value == pytest.approx(((p - np.eye(4)[y]) ** 2).sum(axis=1).mean())
    assert calibration.called_bins(p, y)[2].sum() == (p.argmax(axis=1) == y).sum()


def test_certain_and_wrong_stays_finite_as_in_scikit_learn() -> None:
    p, y = np.array([0.0, 1.0, 0.3]), np.array([1, 1, 0])
    assert calibration.mean_loss(calibration.log_loss_sums(p, y), 3).value == pytest.approx(log_loss(y, p))


def test_intervals_are_those_of_the_mean_over_records() -> None:
    p, y = drawn()
    each = (p - y) ** 2
    read = calibration.mean_loss(calibration.brier_sums(p, y), 500)
    half = 1.959963984540054 * each.std(ddof=1) / np.sqrt(500)
    assert (read.low, read.high) == pytest.approx((each.mean() - half, each.mean() + half))
    gap = y - p
    read = calibration.in_the_large(calibration.bins(p, y), calibration.brier_sums(p, y))
    half = 1.959963984540054 * gap.std(ddof=1) / np.sqrt(500)
    assert (read.low, read.high) == pytest.approx((gap.mean() - half, gap.mean() + half))


def test_a_risk_overstated_everywhere_shows_in_both_figures() -> None:
    p, y = np.full(100, 0.75), np.arange(100) % 4 == 0
    table = calibration.bins(p, y)
    assert calibration.expected_error(table).value == pytest.approx(0.5)
    assert calibration.in_the_large(table, calibration.brier_sums(p, y)).value == pytest.approx(-0.5)
