"""The metrics a study can name: what a site sums for them, and what the pooled sums say.

    sums = measure("binary", scores, targets, loss_sum, ["auc", "brier"])       # at each site, on its held-out records
    pooled = {key: sum(site[key] for site in sites) for key in sums}            # addition is all that happens on the way
    report = figures("binary", pooled, ["auc", "brier"])                        # at the coordinator, or at a site on its own sums

Leaves the site: ``count`` int64 (1,) and ``loss`` float64 (1,) always, and of the following those that a named metric rests on:

=============  ========================================================  ========================================
key            what                                                      type and shape
=============  ========================================================  ========================================
binned_scores  negatives and positives per bin (class against the rest)  int64 (2, 1024); multiclass (K, 2, 1024)
confusion      records by true (row) and called (column) class           int64 (K, K)
calibration    count, sum of p, sum of y in ten bins                     float64 (3, 10)
brier          sum and sum of squares of (p - y)^2                       float64 (2,)
log_loss       sum and sum of squares of -ln p(true class)               float64 (2,)
errors         sum of e, |e|, e^2 with e = prediction - target           float64 (3,)
targets        sum of y - c, (y - c)^2                                   float64 (2,)
exact          records with all labels right, and all                    int64 (2,)
pairs          of patients within the site: see `metrics.survival`       float64 (5,)
overlap        of pixels of each class: see `metrics.segmentation`       float64 (K, 6)
=============  ========================================================  ========================================

Of several labels ``binned_scores`` is (L, 2, 1024) and ``confusion`` (L, 2, 2); of H horizons ``brier`` is (H, 3) with the count in front and
``calibration`` (H, 3, 10).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from aimer2.core.errors import BadInput, BadUpdate
from aimer2.core.said import say
from aimer2.metrics import binned_scores, calibration, confusion, multilabel, regression, segmentation, survival
from aimer2.metrics.intervals import NOTHING, Estimate, estimate, undefined
from aimer2.metrics.scores import Task, checked
from aimer2.metrics.survival import NO_TIMELINE, Timeline

Array = NDArray[Any]
Floats = NDArray[np.float64]
Sums = Mapping[str, Array]


@final
@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of a model: value and 95 % interval, and the n records it rests on.

    ``value`` None means undefined, and ``note`` says why. ``low`` and ``high`` None: no interval. The interval speaks of sampling alone;
    noise added for privacy is not in it.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    note: str


@final
@dataclass(frozen=True, slots=True)
class _Public:
    """What sums are made by besides scores and targets, the same at every site."""

    centre: float
    timeline: Timeline


@final
@dataclass(frozen=True, slots=True)
class _Leaf:
    """One entry of the sums: how a site makes it of scores, targets and what is public, and its shape, with None for the number of classes."""

    make: Callable[[Floats, Array, _Public], Array]
    shape: tuple[int | None, ...]


@final
@dataclass(frozen=True, slots=True)
class _Metric:
    """One metric: its line, the leaves it rests on, and the function that reads it from those leaves, in that order; if it has a figure
    for each label or horizon, from each one's part of the single leaf."""

    line: str
    keys: tuple[str, ...]
    read: Callable[..., Estimate]
    each: bool = False


def _mean_learner_loss(loss: Floats, count: Array) -> Estimate:
    n = float(count[0])
    return estimate(float(loss[0]) / n, None, n, "no interval") if n > 0 else undefined(NOTHING)


def _per_record(read: Callable[..., Estimate]) -> Callable[..., Estimate]:
    """Reads a figure whose last argument is the number of records from the leaf ``count``."""
    return lambda *leaves: read(*leaves[:-1], float(leaves[-1][0]))


_LOSS = _Metric("mean over the records of the loss that the learner minimises", ("loss", "count"), _mean_learner_loss)
_AUC = "chance that a record of the class scores higher than another (area under the ROC curve)"
_PRECISION = "mean precision over the positives' scores (area under the precision-recall curve)"
_DICE = "2·both / (called + true), of all images' pixels together"
_IOU = "both / (called or true), of all images' pixels together"

_LEAVES: Mapping[Task, Mapping[str, _Leaf]] = {
    "binary": {
        "binned_scores": _Leaf(lambda s, t, c: binned_scores.histogram(s, t == 1), (2, binned_scores.BINS)),
        "confusion": _Leaf(lambda s, t, c: confusion.binary(s, t), (2, 2)),
        "calibration": _Leaf(lambda s, t, c: calibration.bins(s, t), (3, calibration.BINS)),
        "brier": _Leaf(lambda s, t, c: calibration.brier_sums(s, t), (2,)),
        "log_loss": _Leaf(lambda s, t, c: calibration.log_loss_sums(s, t), (2,)),
    },
    "multiclass": {
        "binned_scores": _Leaf(lambda s, t, c: binned_scores.one_against_rest(s, t), (None, 2, binned_scores.BINS)),
        "confusion": _Leaf(lambda s, t, c: confusion.multiclass(s, t), (None, None)),
        "calibration": _Leaf(lambda s, t, c: calibration.called_bins(s, t), (3, calibration.BINS)),
        "brier": _Leaf(lambda s, t, c: calibration.brier_sums(s, t), (2,)),
        "log_loss": _Leaf(lambda s, t, c: calibration.log_loss_sums(s, t), (2,)),
    },
    "regression": {
        "errors": _Leaf(lambda s, t, c: regression.error_sums(s, t), (3,)),
        "targets": _Leaf(lambda s, t, c: regression.target_sums(t, c.centre), (2,)),
    },
    "multilabel": {
        "binned_scores": _Leaf(lambda s, t, c: multilabel.histograms(s, t), (None, 2, binned_scores.BINS)),
        "confusion": _Leaf(lambda s, t, c: multilabel.tables(s, t), (None, 2, 2)),
        "exact": _Leaf(lambda s, t, c: multilabel.exact_counts(s, t), (2,)),
        "brier": _Leaf(lambda s, t, c: multilabel.brier_sums(s, t), (2,)),
        "log_loss": _Leaf(lambda s, t, c: multilabel.log_loss_sums(s, t), (2,)),
    },
    "survival": {
        "pairs": _Leaf(lambda s, t, c: survival.pair_sums(s, t, c.timeline), (5,)),
        "brier": _Leaf(lambda s, t, c: survival.brier_sums(s, t, c.timeline), (None, 3)),
        "calibration": _Leaf(lambda s, t, c: survival.risk_bins(s, t, c.timeline), (None, 3, calibration.BINS)),
    },
    "segmentation": {"overlap": _Leaf(lambda s, t, c: segmentation.overlap(s, t), (None, 6))},
}

_METRICS: Mapping[Task, Mapping[str, _Metric]] = {
    "binary": {
        "auc": _Metric(_AUC, ("binned_scores",), binned_scores.auc),
        "average_precision": _Metric(_PRECISION, ("binned_scores",), binned_scores.average_precision),
        "accuracy": _Metric("share of records called right at threshold 0.5", ("confusion",), confusion.accuracy),
        "sensitivity": _Metric("share of the positives called positive at threshold 0.5", ("confusion",), confusion.sensitivity),
        "specificity": _Metric("share of the negatives called negative at threshold 0.5", ("confusion",), confusion.specificity),
        "ppv": _Metric("share of those called positive at threshold 0.5 that are", ("confusion",), confusion.ppv),
        "npv": _Metric("share of those called negative at threshold 0.5 that are", ("confusion",), confusion.npv),
        "balanced_accuracy": _Metric("mean of sensitivity and specificity", ("confusion",), confusion.balanced_accuracy),
        "f1": _Metric("harmonic mean of sensitivity and positive predictive value", ("confusion",), confusion.f1),
        "brier": _Metric("mean squared distance of probability from outcome", ("brier", "count"), _per_record(calibration.mean_loss)),
        "log_loss": _Metric("mean of -ln of the outcome's probability", ("log_loss", "count"), _per_record(calibration.mean_loss)),
        "calibration_error": _Metric(
            "mean distance of predicted from observed frequency over ten bins", ("calibration",), calibration.expected_error
        ),
        "calibration_in_the_large": _Metric("observed minus mean predicted frequency", ("calibration", "brier"), calibration.in_the_large),
        "loss": _LOSS,
    },
    "multiclass": {
        "auc": _Metric(
            f"{_AUC}, mean over the classes", ("binned_scores",), partial(binned_scores.macro, binned_scores.auc, binned_scores.auc_range)
        ),
        "average_precision": _Metric(
            f"{_PRECISION}, mean over the classes",
            ("binned_scores",),
            partial(binned_scores.macro, binned_scores.average_precision, binned_scores.average_precision_range),
        ),
        "accuracy": _Metric("share of records whose class is called right", ("confusion",), confusion.accuracy),
        "balanced_accuracy": _Metric("share called right, mean over the classes", ("confusion",), confusion.balanced_accuracy),
        "sensitivity": _Metric("the same as balanced_accuracy", ("confusion",), confusion.balanced_accuracy),
        "specificity": _Metric("specificity, mean over the classes", ("confusion",), partial(confusion.macro, confusion.specificity)),
        "ppv": _Metric("positive predictive value, mean over the classes", ("confusion",), partial(confusion.macro, confusion.ppv)),
        "npv": _Metric("negative predictive value, mean over the classes", ("confusion",), partial(confusion.macro, confusion.npv)),
        "f1": _Metric("F1, mean over the classes", ("confusion",), partial(confusion.macro, confusion.f1)),
        "brier": _Metric("squared distance summed over classes (0 to 2), mean", ("brier", "count"), _per_record(calibration.mean_loss)),
        "log_loss": _Metric("mean of -ln of the true class's probability", ("log_loss", "count"), _per_record(calibration.mean_loss)),
        "calibration_error": _Metric(
            "mean distance of the called class's probability from how often it is right, over ten bins",
            ("calibration",),
            calibration.expected_error,
        ),
        "loss": _LOSS,
    },
    "regression": {
        "mse": _Metric("mean squared error", ("errors", "count"), _per_record(regression.mse)),
        "rmse": _Metric("root of the mean squared error, in the target's unit", ("errors", "count"), _per_record(regression.rmse)),
        "mae": _Metric("mean absolute error, in the target's unit", ("errors", "count"), _per_record(regression.mae)),
        "mean_error": _Metric("mean of prediction minus target, in its unit", ("errors", "count"), _per_record(regression.mean_error)),
        "r2": _Metric("share of the targets' variance explained", ("errors", "targets", "count"), _per_record(regression.r2)),
        "loss": _LOSS,
    },
    "multilabel": {
        "auc": _Metric(
            f"{_AUC}, mean over the labels",
            ("binned_scores",),
            partial(binned_scores.macro, binned_scores.auc, binned_scores.auc_range, each="label"),
        ),
        "auc_micro": _Metric(f"{_AUC}, all labels pooled", ("binned_scores",), partial(multilabel.pooled, binned_scores.auc)),
        "auc_by_label": _Metric(f"{_AUC}, for each label", ("binned_scores",), binned_scores.auc, each=True),
        "average_precision": _Metric(
            f"{_PRECISION}, mean over the labels",
            ("binned_scores",),
            partial(binned_scores.macro, binned_scores.average_precision, binned_scores.average_precision_range, each="label"),
        ),
        "accuracy": _Metric("share of records whose labels are all called right at threshold 0.5", ("exact",), multilabel.exact),
        "hamming_accuracy": _Metric("share of all labels called right at threshold 0.5", ("confusion",), multilabel.hamming),
        "sensitivity": _Metric("sensitivity, mean over the labels", ("confusion",), partial(multilabel.averaged, confusion.sensitivity)),
        "sensitivity_by_label": _Metric("sensitivity, for each label", ("confusion",), confusion.sensitivity, each=True),
        "specificity": _Metric("specificity, mean over the labels", ("confusion",), partial(multilabel.averaged, confusion.specificity)),
        "specificity_by_label": _Metric("specificity, for each label", ("confusion",), confusion.specificity, each=True),
        "f1": _Metric("F1, mean over the labels", ("confusion",), partial(multilabel.averaged, confusion.f1)),
        "f1_micro": _Metric("F1, all labels pooled", ("confusion",), partial(multilabel.pooled, confusion.f1)),
        "brier": _Metric("squared distance, mean over labels and records", ("brier", "count"), _per_record(calibration.mean_loss)),
        "log_loss": _Metric(
            "-ln of the outcome's probability, mean over labels and records", ("log_loss", "count"), _per_record(calibration.mean_loss)
        ),
        "loss": _LOSS,
    },
    "survival": {
        "concordance": _Metric(
            "chance that of two patients of a site the one with the earlier event has the higher risk",
            ("pairs", "count"),
            _per_record(survival.concordance),
        ),
        "brier": _Metric("weighted squared distance of survival from its probability, at each horizon", ("brier",), survival.brier, each=True),
        "calibration_error": _Metric(
            "mean distance of predicted from observed risk over ten bins, at each horizon", ("calibration",), survival.calibration_error, each=True
        ),
        "calibration_in_the_large": _Metric(
            "observed minus mean predicted risk, at each horizon", ("calibration",), survival.in_the_large, each=True
        ),
        "loss": _LOSS,
    },
    "segmentation": {
        "dice": _Metric(f"{_DICE}, mean over the classes but the background", ("overlap",), segmentation.dice),
        "dice_by_class": _Metric(f"{_DICE}, of each class", ("overlap",), segmentation.dice, each=True),
        "iou": _Metric(f"{_IOU}, mean over the classes but the background", ("overlap",), segmentation.iou),
        "iou_by_class": _Metric(f"{_IOU}, of each class", ("overlap",), segmentation.iou, each=True),
        "image_dice": _Metric("Dice of each image, mean over images and over the classes but the background", ("overlap",), segmentation.image_dice),
        "image_dice_by_class": _Metric("Dice of each image, mean over images, of each class", ("overlap",), segmentation.image_dice, each=True),
        "pixel_accuracy": _Metric("share of pixels whose class is called right", ("overlap",), segmentation.pixel_accuracy),
        "loss": _LOSS,
    },
}

BY_HORIZON = frozenset(name for name, metric in _METRICS["survival"].items() if metric.each)
"""The metrics of survival that need horizons."""


def measure(
    task: Task, scores: Array, targets: Array, loss_sum: float, names: Sequence[str], *, centre: float = 0.0, timeline: Timeline = NO_TIMELINE
) -> dict[str, Array]:
    """The sums over these records that the named metrics need; no records at all give sums of zero.

    ``scores``: binary (n,) the probability of class 1; multiclass (n, K) probabilities; regression (n,) predictions; multilabel (n, L)
    probabilities; segmentation (n, K, h, w) probabilities; survival (n,) risks, or (n, J) probabilities to live beyond each interval.
    ``targets`` (n,): class numbers from 0, or numbers; multilabel (n, L) 0 or 1; segmentation (n, h, w) class numbers; survival (n, 2) times and
    events. ``loss_sum``: the learner's own loss summed over the records. ``centre``: for regression a public number near the targets' mean,
    the same at every site (see `aimer2.metrics.regression`); ``timeline``: of survival the study's intervals and horizons.

    Raises BadInput for a name the task does not have, BadUpdate for scores of a wrong shape, not finite or no probabilities, BadData for
    targets that do not fit the task. The sentences name no value.
    """
    _refuse_unknown(task, names)
    scores, targets = checked(task, scores, targets)
    public = _Public(centre, timeline)
    if not isfinite(loss_sum):
        raise BadUpdate("The loss is not finite.")
    sums: dict[str, Array] = {"count": np.array([len(targets)], dtype=np.int64), "loss": np.array([loss_sum], dtype=np.float64)}
    for key, leaf in _LEAVES[task].items():
        if any(key in _METRICS[task][name].keys for name in names):
            with np.errstate(over="ignore", invalid="ignore"):
                sums[key] = leaf.make(scores, targets, public)
            if not np.isfinite(sums[key]).all():
                raise BadUpdate(say("The sums '{key}' are too large for a number of 64 bits.", key=key))
    return sums


def summed(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """What several parts of the records give together."""
    return {key: sum((part[key] for part in parts[1:]), parts[0][key]) for key in parts[0]}


def figures(task: Task, sums: Sums, names: Sequence[str], parts: Sequence[str] = ()) -> list[Figure]:
    """The named metrics in the order named, from one site's sums or from pooled ones; ``parts`` names the labels or horizons, for which some
    metrics have a figure each.

    Raises BadInput for a name the task does not have, BadUpdate where the sums lack a leaf or it is of a wrong shape or not finite.
    """
    _refuse_unknown(task, names)
    return [figure for name in names for figure in _read(task, sums, name, parts)]


def _read(task: Task, sums: Sums, name: str, parts: Sequence[str]) -> list[Figure]:
    metric = _METRICS[task][name]
    leaves = [_leaf(task, sums, key) for key in metric.keys]
    if not metric.each:
        return [_figure(name, metric, leaves)]
    if parts and len(parts) != len(leaves[0]):
        raise BadUpdate(say("The sums '{keys}' have a wrong shape.", keys=metric.keys[0]))
    told = parts or [str(number) for number in range(1, len(leaves[0]) + 1)]
    return [_figure(f"{name} {part}", metric, [leaf]) for part, leaf in zip(told, leaves[0], strict=True)]


def _figure(name: str, metric: _Metric, leaves: Sequence[Array]) -> Figure:
    with np.errstate(divide="ignore", invalid="ignore"):
        read = metric.read(*leaves)
    if read.value is not None and not isfinite(read.value):
        read = undefined("the sums hold too much noise", read.n)
    return Figure(name, read.value, read.low, read.high, read.n, read.note)


def shapes(task: Task, classes: int, horizons: int) -> dict[str, tuple[int, ...]]:
    """What the sums of a task may be called, and the shape of each; ``classes``: those of the target, or its labels."""
    free = horizons if task == "survival" else classes
    own = {key: tuple(free if length is None else length for length in leaf.shape) for key, leaf in _LEAVES[task].items()}
    return {"count": (1,), "loss": (1,), **own}


def available(task: Task) -> Mapping[str, str]:
    """The metrics of a task: name and one line."""
    return {name: metric.line for name, metric in _METRICS[task].items()}


def validate(task: Task, names: Sequence[str]) -> list[str]:
    """Those of the names that the task does not have."""
    return [name for name in names if name not in _METRICS[task]]


def _refuse_unknown(task: Task, names: Sequence[str]) -> None:
    if unknown := validate(task, names):
        raise BadInput(
            say(
                "No such metric for a {task} task: {unknown}. There are: {metrics}.",
                task=task,
                unknown=", ".join(unknown),
                metrics=", ".join(_METRICS[task]),
            )
        )


def _leaf(task: Task, sums: Sums, key: str) -> Array:
    if key not in sums:
        raise BadUpdate(say("The sums lack '{key}'.", key=key))
    leaf = sums[key]
    shape = _LEAVES[task][key].shape if key in _LEAVES[task] else (1,)
    free = {size for size, fixed in zip(leaf.shape, shape, strict=False) if fixed is None}
    fits = leaf.ndim == len(shape) and all(fixed in (None, size) for size, fixed in zip(leaf.shape, shape, strict=True))
    if not fits or len(free) > 1 or 0 in free:
        raise BadUpdate(say("The sums '{key}' have a wrong shape.", key=key))
    if not np.isfinite(leaf).all():
        raise BadUpdate(say("The sums '{key}' are not finite.", key=key))
    return leaf
