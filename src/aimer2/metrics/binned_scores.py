"""How well scores rank the positives above the negatives, from counts in fixed bins.

Papers: E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
characteristic curves", Biometrics 44 (1988); for ties at one half D. Bamber, "The area above the ordinal dominance graph and the area below
the receiver operating characteristic graph", J. Math. Psychology 12 (1975).

A histogram is int64 (2, 1024): row 0 counts the negatives, row 1 the positives. The bins are fixed, so two sites' histograms add. They are
of equal width (0.0235) in the logit of the score from -12 to 12, with one more bin at either end. Equal bins of the probability would put
most of a strong model's scores, or of a rare disease's, into the first and the last bin, where the ranking is then lost. One half is
exactly an edge; a bin holds its lower edge.

All figures are exactly those of the scores rounded to their bins. What rounding can change is bounded from the histogram alone
(`auc_range`, `average_precision_range`): a model whose scores hardly differ has a wide bound, and the figure's note says so.

Leaves the site: the histogram. With few records it is close to a list of rounded scores with their labels, so it belongs in a secure sum or
under disclosure control.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aimer2.core.said import mark
from aimer2.metrics.intervals import NOTHING, Estimate, estimate, extreme_auc_interval, logit_interval, mean_over_classes, undefined

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Figure = Callable[[Counts], Estimate]
Range = Callable[[Counts], tuple[float, float]]

BINS = 1024
LARGEST_LOGIT = 12.0
_HALF = BINS // 2 - 1
EDGES: Floats = 1 / (1 + np.exp(-np.arange(-_HALF, _HALF + 1) * (LARGEST_LOGIT / _HALF)))


def histogram(scores: Floats, positive: NDArray[np.bool_]) -> Counts:
    """How many negatives (row 0) and positives (row 1) have a score in each bin; scores lie in [0, 1], shape (n,)."""
    bins = np.searchsorted(EDGES, scores, side="right") + BINS * positive.astype(np.int64)
    return np.bincount(bins, minlength=2 * BINS).astype(np.int64, copy=False).reshape(2, BINS)


def one_against_rest(scores: Floats, targets: NDArray[Any]) -> Counts:
    """For each class the histogram of its probability, its records positive and all others negative: scores (n, K) to (K, 2, 1024)."""
    return np.stack([histogram(scores[:, k], targets == k) for k in range(scores.shape[1])])


def _missing_class(counts: NDArray[Any]) -> str:
    negatives, positives = counts.sum(axis=1)
    if positives <= 0 and negatives <= 0:
        return NOTHING
    return "" if positives > 0 and negatives > 0 else mark("only one class present")


def auc(counts: Counts) -> Estimate:
    """The chance that a positive scores higher than a negative, ties at half, with DeLong's interval on the logit scale."""
    missing = _missing_class(counts)
    n = int(counts.sum())
    if missing:
        return undefined(missing, n)
    to_positives, _ = _placements(counts)
    value = float(counts[1] @ to_positives / counts[1].sum())
    variance = delong_variance(counts)
    interval = None if variance is None else logit_interval(value, variance)
    if interval is None:
        negatives, positives = counts.sum(axis=1)
        interval = extreme_auc_interval(value, float(positives), float(negatives))
    note = _rounding_note(*auc_range(counts))
    return estimate(value, interval, n, note if interval else f"{note}; no interval: too few records or no variation")


def _placements(counts: Counts) -> tuple[Floats, Floats]:
    """For each bin: the share of negatives ranked below a positive there, and of positives ranked above a negative there."""
    negatives, positives = counts.astype(np.float64)
    below = np.cumsum(negatives) - negatives / 2
    above = positives.sum() - np.cumsum(positives) + positives / 2
    return below / negatives.sum(), above / positives.sum()


def _variance(counts: Counts, placement: Floats) -> float:
    n = float(counts.sum())
    centre = counts @ placement / n
    return float(counts @ (placement - centre) ** 2 / (n - 1) / n)


def delong_variance(counts: Counts) -> float | None:
    """The variance of the area under the curve by DeLong's placements; None with fewer than two records of a class."""
    if (counts.sum(axis=1) < 2).any():
        return None
    to_positives, to_negatives = _placements(counts)
    return _variance(counts[1], to_positives) + _variance(counts[0], to_negatives)


def auc_range(counts: Counts) -> tuple[float, float]:
    """The lowest and the highest area that scores with this histogram can have: a pair within a bin counts half and could count 0 or 1.

    Both lie the same distance from the binned area, half of the pairs within bins over all pairs.
    """
    negatives, positives = counts.astype(np.float64)
    pairs = positives.sum() * negatives.sum()
    lowest = positives @ (np.cumsum(negatives) - negatives) / pairs
    return float(lowest), float(lowest + positives @ negatives / pairs)


def average_precision(counts: Counts) -> Estimate:
    """The mean over the positives of the precision at their score (no interpolation)."""
    missing = _missing_class(counts)
    n = int(counts.sum())
    if missing:
        return undefined(missing, n)
    true, false = _from_the_top(counts)
    held = counts[1] > 0
    positives = counts[1, held]
    value = float(positives @ (true[held] / (true[held] + false[held])) / positives.sum())
    return estimate(value, None, n, f"{_rounding_note(*average_precision_range(counts))}; no interval")


def average_precision_range(counts: Counts) -> tuple[float, float]:
    """The lowest and the highest average precision that scores with this histogram can have.

    Lowest: within each bin all negatives come first, and sum_i (T+i)/(M+i) over its p positives is p - (M-T) sum_i 1/(M+i), at least
    p - (M-T) ln((M+p)/M), where T positives lie above the bin and M records above or before. Highest: the positives come first, tied.
    """
    true, false = _from_the_top(counts)
    held = counts[1] > 0
    p, n = counts[1, held].astype(np.float64), counts[0, held].astype(np.float64)
    true, false = true[held], false[held]
    before = true - p + false
    logs = np.where(before > 0, np.log1p(p / np.maximum(before, 1.0)), 0.0)
    lowest = (p - false * logs).sum() / p.sum()
    highest = (p * true / (true + false - n)).sum() / p.sum()
    return float(lowest), float(highest)


def _from_the_top(counts: Counts) -> tuple[Floats, Floats]:
    """For each bin the positives and the negatives in it and in the bins above it."""
    false, true = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1].astype(np.float64)
    return true, false


def threshold_table(counts: Counts) -> tuple[Floats, Counts]:
    """What calling "positive" from each threshold on would give: thresholds (1025,), confusion counts (1025, 2, 2).

    Thresholds rise from 0 (all positive) over the 1023 edges to infinity (none). Rows of a confusion count are the true class, columns the
    called one, as in `aimer2.metrics.confusion`.
    """
    thresholds = np.concatenate(([0.0], EDGES, [np.inf]))
    called = np.zeros((BINS + 1, 2), dtype=counts.dtype)
    called[:-1] = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1].T
    return thresholds, np.stack((counts.sum(axis=1) - called, called), axis=2)


def roc_points(counts: Counts) -> tuple[Floats, Floats, Floats] | None:
    """False-positive rate, true-positive rate and threshold along the curve from (0, 0) to (1, 1); None if a class is absent."""
    if _missing_class(counts):
        return None
    thresholds, table = threshold_table(counts)
    rates = table[::-1, :, 1] / counts.sum(axis=1)
    return rates[:, 0], rates[:, 1], thresholds[::-1]


def precision_recall_points(counts: Counts) -> tuple[Floats, Floats, Floats] | None:
    """Precision, recall and threshold by falling threshold, where any record is called positive; None if a class is absent."""
    if _missing_class(counts):
        return None
    thresholds, table = threshold_table(counts)
    false, true = table[::-1, :, 1].T
    called = true + false > 0
    precision = true[called] / (true[called] + false[called])
    return precision, true[called] / counts[1].sum(), thresholds[::-1][called]


def macro(figure: Figure, possible: Range, counts: Counts, *, each: str = "class") -> Estimate:
    """The mean over the classes of a figure of that class against the rest: counts (K, 2, 1024); undefined as soon as one class's is."""
    n = int(counts[0].sum())
    read = mean_over_classes([figure(one) for one in counts], n, each=each)
    if read.value is None:
        return read
    ranges = np.array([possible(one) for one in counts])
    return estimate(read.value, None, n, f"{_rounding_note(*ranges.mean(axis=0))}; no interval")


def _rounding_note(low: float, high: float) -> str:
    digits = 1e5
    return f"scores are binned: the exact value lies in {np.floor(low * digits) / digits:.5f} to {np.ceil(high * digits) / digits:.5f}"
