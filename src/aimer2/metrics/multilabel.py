"""How well several labels per record are told, each a yes or no of its own.

Leaves the site: for each label the histogram of its scores (`aimer2.metrics.binned_scores`) and its confusion matrix
(`aimer2.metrics.confusion`); how many records have all labels right (int64 (2,): right, all); sum and sum of squares of a record's mean
squared distance and mean -ln p over its labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aimer2.metrics import binned_scores, confusion
from aimer2.metrics.calibration import SMALLEST_PROBABILITY
from aimer2.metrics.intervals import NOTHING, Estimate, estimate, mean_over_classes, proportion, undefined

Array = NDArray[Any]
Floats = NDArray[np.float64]


def histograms(scores: Floats, targets: Array) -> Array:
    """Scores and targets (n, L) to (L, 2, 1024)."""
    return np.stack([binned_scores.histogram(s, y == 1) for s, y in zip(scores.T, targets.T, strict=True)])


def tables(scores: Floats, targets: Array) -> Array:
    """Scores and targets (n, L) to (L, 2, 2)."""
    return np.stack([confusion.binary(s, y) for s, y in zip(scores.T, targets.T, strict=True)])


def exact_counts(scores: Floats, targets: Array) -> Array:
    right = ((scores >= confusion.THRESHOLD) == (targets == 1)).all(axis=1)
    return np.array([right.sum(), len(right)], np.int64)


def brier_sums(scores: Floats, targets: Array) -> Floats:
    return _sums(((scores - targets) ** 2).mean(axis=1))


def log_loss_sums(scores: Floats, targets: Array) -> Floats:
    p = np.where(targets == 1, scores, 1 - scores)
    return _sums(-np.log(np.maximum(p, SMALLEST_PROBABILITY)).mean(axis=1))


def _sums(loss: Floats) -> Floats:
    return np.array([loss.sum(), (loss * loss).sum()])


def exact(counts: Array) -> Estimate:
    return proportion(float(counts[0]), float(counts[1]), NOTHING)


def hamming(found: Array) -> Estimate:
    """The share of all labels of all records called right; labels of one record go together, so no interval."""
    n = float(found[0].sum())
    if n <= 0:
        return undefined(NOTHING)
    return estimate(float(found[:, 0, 0].sum() + found[:, 1, 1].sum()) / float(found.sum()), None, n, "no interval")


def pooled(figure: Callable[[Array], Estimate], leaf: Array) -> Estimate:
    """A figure over all pairs of a record and a label as if each were a record (micro average); its interval would take them as independent."""
    read = figure(leaf.sum(axis=0))
    note = read.note.partition("; no interval")[0]
    return Estimate(read.value, None, None, round(float(leaf[0].sum())), f"{note}; no interval" if note else "no interval")


def averaged(figure: Callable[[Array], Estimate], leaf: Array) -> Estimate:
    """The mean over the labels (macro average); undefined as soon as it is for one label."""
    return mean_over_classes([figure(one) for one in leaf], round(float(leaf[0].sum())), each="label")
