"""Whether predicted probabilities can be taken at their word, from sums.

Papers: G. W. Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78 (1950); C. Guo et al., "On
calibration of modern neural networks", ICML 2017, eq. 3 (expected calibration error; for several classes of the called class);
E. W. Steyerberg, "Clinical Prediction Models" (2019), chapter 15 (calibration-in-the-large).

Leaves the site: for each of ten bins of the probability the count, sum of p and sum of y (float64 (3, 10)); the sum and the sum of squares
of (p - y)^2 and of -ln p(true class).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aimer2.metrics.intervals import NOTHING, Estimate, estimate, mean, undefined

Floats = NDArray[np.float64]

BINS = 10
SMALLEST_PROBABILITY = float(np.finfo(np.float64).eps)  # a probability of 0 for what came true would make the log loss infinite


def bins(p: Floats, y: NDArray[Any]) -> Floats:
    """Count, sum of p and sum of y in ten equal bins of p, the last closed: float64 (3, 10)."""
    place = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    weights = (None, p, y.astype(np.float64))
    return np.stack([np.bincount(place, weights=w, minlength=BINS).astype(np.float64) for w in weights])


def called_bins(scores: Floats, targets: NDArray[Any]) -> Floats:
    """The same for several classes: p is the largest probability, y whether that class is the true one; scores (n, K)."""
    return bins(scores.max(axis=1), scores.argmax(axis=1) == targets)


def brier_sums(scores: Floats, targets: NDArray[Any]) -> Floats:
    """Sum and sum of squares of (p - y)^2; over several classes of its sum over the classes (0 to 2); scores (n,) or (n, K)."""
    truth = targets if scores.ndim == 1 else targets[:, None] == np.arange(scores.shape[1])
    loss = (scores - truth) ** 2
    return _with_squares(loss if scores.ndim == 1 else loss.sum(axis=1))


def log_loss_sums(scores: Floats, targets: NDArray[Any]) -> Floats:
    """Sum and sum of squares of -ln p(true class), with p at least 2.2e-16; scores (n,) or (n, K)."""
    if scores.ndim == 1:
        p = np.where(targets == 1, scores, 1 - scores)
    else:
        p = scores[np.arange(len(scores)), targets.astype(np.int64)]
    return _with_squares(-np.log(np.maximum(p, SMALLEST_PROBABILITY)))


def _with_squares(loss: Floats) -> Floats:
    return np.array([loss.sum(), (loss * loss).sum()])


def mean_loss(sums: Floats, n: float) -> Estimate:
    """The Brier score or the log loss with its normal interval."""
    return mean(float(sums[0]), float(sums[1]), n, least=0.0)


def expected_error(table: Floats) -> Estimate:
    """The mean distance of predicted from observed frequency over the bins; biased upwards where bins hold few records."""
    n, predicted, observed = table
    if n.sum() <= 0:
        return undefined(NOTHING)
    return estimate(float(np.abs(predicted - observed).sum() / n.sum()), None, float(n.sum()), "no interval")


def in_the_large(table: Floats, brier: Floats) -> Estimate:
    """Observed minus predicted frequency (0 is right, positive means risks are understated); sum (y - p)^2 gives its interval."""
    n, predicted, observed = table.sum(axis=1)
    return mean(float(observed - predicted), float(brier[0]), float(n))
