"""Evaluation under differential privacy: counts of patients and bounded sums over them with Gaussian noise, and the metrics that follow.

Of each held-out patient one row counts. One patient more or less changes one count by one in each of the tables that are told (the confusion matrix,
and of a binary target the scores in bins), and each sum by at most its bound: a squared distance of a probability from the outcome by 1 (over several
classes 2); of a regression, whose target and predictions are brought into the stated range of width R, an error by R, its square by R², the distance
of the target from the middle by R/2, its square by R²/4. With k tables and sums, each in units of its bound, the L2 norm is √k. The bins are those
of `aimer2.metrics.binned_scores` put together to a few, because each gets noise of its own: a noisy count stands in the middle of those it is made
of.

Leaves the site: ``confusion`` int64 (K, K), ``binned_scores`` int64 (2, 1024) with 10 columns that are not 0, ``count`` int64 (1,) the sum of the
noisy counts, or the noisy number of patients; ``brier`` float64 (2,), ``errors`` float64 (3,), ``targets`` float64 (2,), of which what no named
metric needs is 0. Some may be below 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aimer2.core import tree
from aimer2.core.errors import BadInput, BadUpdate
from aimer2.core.random import SecureBytes
from aimer2.core.said import say
from aimer2.core.tree import Tree
from aimer2.metrics.binned_scores import BINS, LARGEST_LOGIT
from aimer2.metrics.figures import measure
from aimer2.privacy.gaussian import gaussian

COUNTED: Mapping[str, tuple[str, ...]] = {
    "binary": ("auc", "accuracy", "sensitivity", "specificity", "ppv", "npv", "balanced_accuracy", "f1"),
    "multiclass": ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv", "f1"),
}
"""Metrics that follow from counts of patients. (The mean precision would need finer bins.)"""

_SUMS: Mapping[str, Mapping[str, tuple[tuple[str, int], ...]]] = {
    "binary": {"brier": (("brier", 0),)},
    "multiclass": {"brier": (("brier", 0),)},
    "regression": {
        "mean_error": (("errors", 0),),
        "mae": (("errors", 1),),
        "mse": (("errors", 2),),
        "rmse": (("errors", 2),),
        "r2": (("errors", 2), ("targets", 0), ("targets", 1)),
    },
}
"""Metrics that follow from bounded sums over patients: which leaf, and which place in it."""

_SIZES = {"brier": 2, "errors": 3, "targets": 2}

NOISY_METRICS: Mapping[str, tuple[str, ...]] = {kind: COUNTED.get(kind, ()) + tuple(sums) for kind, sums in _SUMS.items()}
"""Metrics to which noise can be added. (Losses without a bound, such as the log loss, are none.)"""

_TABLES = ("confusion", "binned_scores")
_LOGITS = np.arange(-4, 5)
"""Edges of the few bins: one logit wide from -4 to 4, where most scores are, and one more at either end."""

_CUTS = np.rint(BINS // 2 + _LOGITS * (BINS // 2 - 1) / LARGEST_LOGIT).astype(np.int64)
_STARTS = np.concatenate(([0], _CUTS))
_MIDDLES = (_STARTS + np.concatenate((_CUTS, [BINS]))) // 2


def noisy_metrics(
    kind: Literal["binary", "multiclass", "regression"],
    scores: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    names: Sequence[str],
    noise: float,
    source: SecureBytes,
    *,
    span: tuple[float, float] | None = None,
) -> dict[str, npt.NDArray[Any]]:
    """The sums that the named metrics need, by a Gaussian mechanism of this noise multiplier; one row per patient is given.

    ``span``: the range of a regression. Raises BadInput for a metric that is none of `NOISY_METRICS`, and for a regression without a range.
    """
    if odd := sorted(set(names) - set(NOISY_METRICS[kind])):
        raise BadInput(say("Noise cannot be added to {odd}.", odd=", ".join(odd)))
    measured = measure(kind, scores, targets, 0.0, names)
    tables: dict[str, npt.NDArray[Any]] = {name: measured[name] for name in _TABLES if name in measured}
    if "binned_scores" in tables:
        tables["binned_scores"] = _few(tables["binned_scores"])
    if not tables:
        tables["count"] = measured["count"]
    places = sorted({place for name in names for place in _SUMS[kind].get(name, ())})
    bounded = _bounded(kind, scores, targets, span, places)
    deviation = noise * math.sqrt(len(tables) + len(places))
    told: dict[str, npt.NDArray[Any]] = {
        name: np.rint(table + gaussian(source, deviation, table.size).reshape(table.shape)).astype(np.int64) for name, table in tables.items()
    }
    told["count"] = np.array([next(iter(told.values())).sum()], np.int64)
    if "binned_scores" in told:
        told["binned_scores"] = _spread(told["binned_scores"]).astype(np.int64)
    for (leaf, place), (total, bound) in bounded.items():
        told.setdefault(leaf, np.zeros(_SIZES[leaf]))[place] = (total + gaussian(source, deviation, 1)[0]) * bound
    return told


def _bounded(
    kind: str, scores: npt.NDArray[Any], targets: npt.NDArray[Any], span: tuple[float, float] | None, places: Sequence[tuple[str, int]]
) -> dict[tuple[str, int], tuple[float, float]]:
    """Each sum in units of what one patient changes it by at most, and that bound. Raises BadInput for a regression without a range."""
    if kind != "regression":
        largest = 1.0 if kind == "binary" else 2.0
        truth = targets if scores.ndim == 1 else targets[:, None] == np.arange(scores.shape[1])
        distance = np.square(np.asarray(scores, np.float64) - truth).reshape(len(targets), -1).sum(axis=1)
        return {place: (float(np.minimum(distance / largest, 1.0).sum()), largest) for place in places}
    if span is None:
        raise BadInput("The figures of a regression have no bound without the target's range.")
    low, high = span
    width = high - low
    error = (np.clip(scores, low, high) - np.clip(targets, low, high)) / width
    shifted = (np.clip(targets, low, high) - (low + high) / 2) / (width / 2)
    units = {
        ("errors", 0): (error, width),
        ("errors", 1): (np.abs(error), width),
        ("errors", 2): (error * error, width**2),
        ("targets", 0): (shifted, width / 2),
        ("targets", 1): (shifted * shifted, width**2 / 4),
    }
    return {place: (float(units[place][0].sum()), units[place][1]) for place in places}


def shares_of(classes: int, metrics: Tree, tables: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
    """A site's counts as shares of its held-out patients, each table of an L2 norm of at most 1: where a whole site is protected, it counts as one.

    ``tables``: the confusion matrix and, for a binary target, the scores, brought into a few bins. Raises BadUpdate for other tables than these.
    """
    shapes = {"confusion": (classes, classes), "binned_scores": (2, BINS)}
    found: dict[str, npt.NDArray[np.float64]] = {}
    for name in tables:
        table = tree.load(metrics[name]) if name in metrics else np.zeros(0)
        if table.shape != shapes[name] or table.dtype != np.int64 or table.min() < 0:
            raise BadUpdate("The counts of held-out patients are not those of the study.")
        wanted = _few(table) if name == "binned_scores" else table
        found[name] = wanted / max(float(wanted.sum()), 1.0)
    return found


def counts_of(shares: Tree, patients: int) -> dict[str, npt.NDArray[np.int64]]:
    """The sum of sites' shares, with its noise, as counts: each site stands for so many patients."""
    tables = {name: np.rint(tree.load(leaf).astype(np.float64) * patients) for name, leaf in shares.items()}
    count = tables["confusion"].sum()
    if "binned_scores" in tables:
        tables["binned_scores"] = _spread(tables["binned_scores"])
    return {name: table.astype(np.int64) for name, table in tables.items()} | {"count": np.array([count], np.int64)}


def plausible(metrics: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Noisy counts, of one site or of many together, made such as counts can be: none below 0, and no more in the bins than there are patients.

    Cutting the negative ones off alone would leave the positive noise of every bin. So the bins of a class are brought to the nearest counts whose
    sum is that of the noisy ones (Duchi, Shalev-Shwartz, Singer, Chandra 2008, the projection onto a simplex).
    """
    kept = {name: np.maximum(table, 0) if name in (*_TABLES, "count", "brier") else table for name, table in metrics.items()}
    if "binned_scores" in metrics:
        table = metrics["binned_scores"].astype(np.float64)
        table[:, _MIDDLES] = [_projected(row) for row in table[:, _MIDDLES]]
        kept["binned_scores"] = table
    return kept


def _projected(row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    total = max(float(row.sum()), 0.0)
    falling = np.sort(row)[::-1]
    surplus = (np.cumsum(falling) - total) / np.arange(1, len(row) + 1)
    last = np.flatnonzero(falling > surplus)
    lowered: npt.NDArray[np.float64] = np.maximum(row - surplus[last[-1]], 0.0) if total > 0 else np.zeros_like(row)
    return lowered


def _few(histogram: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.add.reduceat(histogram, _STARTS, axis=1)


def _spread(few: npt.NDArray[Any]) -> npt.NDArray[Any]:
    whole = np.zeros((2, BINS))
    whole[:, _MIDDLES] = few
    return whole
