"""How often a model's call is right, from counts of true against called class.

A matrix is int64 (K, K): the row is the true class, the column the called one. For two classes it reads [[tn, fp], [fn, tp]]. A figure
whose class is absent, or never called, is undefined; it is never reported as 0.

Leaves the site: the matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aimer2.metrics.intervals import NOTHING, Estimate, estimate, mean_over_classes, proportion, undefined

Counts = NDArray[np.int64]

THRESHOLD = 0.5


def counts(called: NDArray[Any], targets: NDArray[Any], classes: int) -> Counts:
    """The confusion matrix of called against true classes, both whole numbers 0 … classes - 1, shape (n,)."""
    cells = targets.astype(np.int64) * classes + called.astype(np.int64)
    return np.bincount(cells, minlength=classes * classes).astype(np.int64, copy=False).reshape(classes, classes)


def binary(scores: NDArray[np.float64], targets: NDArray[Any], threshold: float = THRESHOLD) -> Counts:
    """The 2 x 2 matrix where a score at or above the threshold is called positive."""
    return counts(scores >= threshold, targets, 2)


def multiclass(scores: NDArray[np.float64], targets: NDArray[Any]) -> Counts:
    """The K x K matrix where the class with the largest probability is called, the first of equal ones; scores (n, K)."""
    return counts(scores.argmax(axis=1), targets, scores.shape[1])


def one_against_rest(matrix: Counts) -> Counts:
    """For each class the 2 x 2 matrix of that class (positive) against all others: (K, 2, 2)."""
    tp = matrix.diagonal()
    fn = matrix.sum(axis=1) - tp
    fp = matrix.sum(axis=0) - tp
    tn = matrix.sum() - tp - fn - fp
    return np.stack((tn, fp, fn, tp), axis=1).reshape(-1, 2, 2)


def accuracy(matrix: Counts) -> Estimate:
    return proportion(float(matrix.trace()), float(matrix.sum()), NOTHING)


def sensitivity(table: Counts) -> Estimate:
    return proportion(float(table[1, 1]), float(table[1].sum()), "no record is positive")


def specificity(table: Counts) -> Estimate:
    return proportion(float(table[0, 0]), float(table[0].sum()), "no record is negative")


def ppv(table: Counts) -> Estimate:
    return proportion(float(table[1, 1]), float(table[:, 1].sum()), "no record was called positive")


def npv(table: Counts) -> Estimate:
    return proportion(float(table[0, 0]), float(table[:, 0].sum()), "no record was called negative")


def f1(table: Counts) -> Estimate:
    """The harmonic mean of sensitivity and positive predictive value; it has no simple interval."""
    if table[1].sum() <= 0:
        return undefined("no record is positive", round(float(table.sum())))
    tp = float(table[1, 1])
    return estimate(2 * tp / float(table[1].sum() + table[:, 1].sum()), None, float(table.sum()), "no interval")


def balanced_accuracy(matrix: Counts) -> Estimate:
    """The mean over the classes of the share of their records that is called right; its interval combines those of the classes."""
    parts = [sensitivity(table) for table in one_against_rest(matrix)]
    return mean_over_classes(parts, round(float(matrix.sum())), independent=True)


def macro(figure: Callable[[Counts], Estimate], matrix: Counts) -> Estimate:
    """The mean over the classes of a figure of that class against the rest; undefined as soon as one class's is."""
    return mean_over_classes([figure(table) for table in one_against_rest(matrix)], round(float(matrix.sum())))
