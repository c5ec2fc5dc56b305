"""How well called pixels cover the true ones, class by class, from sums over images.

The sums are float64 (K, 6), of each class: pixels that are both called and true, pixels called, pixels true; then over the images in which the
class is called or true: the sum of the image's own Dice coefficient, of its square, and how many such images there are. Counts stay exact
below 2^53.

Dice 1945, "Measures of the Amount of Ecologic Association Between Species": 2·both / (called + true). Intersection over union (Jaccard 1912): both /
(called + true - both). Pooled, all pixels of all images count alike, so large findings weigh more; per image, each image does.

Leaves the site: the sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aimer2.metrics.intervals import NOTHING, Estimate, estimate, mean, mean_over_classes, undefined

Floats = NDArray[np.float64]


def overlap(scores: Floats, targets: NDArray[Any]) -> Floats:
    """The sums of these images; a pixel is called by its largest probability. ``scores`` (n, K, h, w), ``targets`` (n, h, w)."""
    classes = scores.shape[1]
    pixels = np.zeros((3, len(targets), classes))
    for image, (mine, true) in enumerate(zip(scores.argmax(axis=1), targets, strict=True)):
        pixels[:, image] = [np.bincount(seen.ravel(), minlength=classes) for seen in (mine[mine == true], mine, true)]
    both, whole = pixels[0], pixels[1] + pixels[2]
    there = whole > 0
    own = np.where(there, 2 * both / np.where(there, whole, 1.0), 0.0)
    return np.stack([*pixels.sum(axis=1), own.sum(axis=0), (own**2).sum(axis=0), there.sum(axis=0)], axis=1)


def dice(sums: Floats) -> Estimate:
    """Of one class ``(6,)``, or the mean over the classes but the first, which is the background."""
    return _pooled(sums, lambda both, called, true: 2 * both / (called + true))


def iou(sums: Floats) -> Estimate:
    return _pooled(sums, lambda both, called, true: both / (called + true - both))


def image_dice(sums: Floats) -> Estimate:
    """The mean over images with its normal interval; of several classes the mean over all but the first."""
    if sums.ndim == 1:
        return mean(float(sums[3]), float(sums[4]), float(sums[5]), least=0.0) if sums[5] > 0 else undefined(NOTHING)
    return mean_over_classes([image_dice(one) for one in sums[1:]], round(float(sums[:, 5].max())))


def pixel_accuracy(sums: Floats) -> Estimate:
    """Share of all pixels whose class is called right; high wherever most pixels are background."""
    if sums[:, 2].sum() <= 0:
        return undefined(NOTHING)
    return estimate(float(sums[:, 0].sum() / sums[:, 2].sum()), None, float(sums[:, 5].max()), "no interval")


def _pooled(sums: Floats, of: Callable[[float, float, float], float]) -> Estimate:
    if sums.ndim > 1:
        return mean_over_classes([_pooled(one, of) for one in sums[1:]], round(float(sums[:, 5].max())))
    both, called, true, _, _, images = map(float, sums)
    if called + true <= 0:
        return undefined(NOTHING)
    return estimate(of(both, called, true), None, images, "no interval")
