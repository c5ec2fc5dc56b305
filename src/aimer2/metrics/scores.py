"""What the scores of a model and the targets beside them must be before anything is counted."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aimer2.core.errors import BadData, BadUpdate
from aimer2.core.said import say

Task = Literal["binary", "multiclass", "regression", "multilabel", "survival", "segmentation"]
Array = NDArray[Any]
Floats = NDArray[np.float64]

PROBABILITY_TOLERANCE = 1e-6  # float32 arithmetic may end a little outside [0, 1]
TOTAL_TOLERANCE = 1e-2  # and a row of half-precision probabilities a little beside 1


def checked(task: Task, scores: Array, targets: Array) -> tuple[Floats, Array]:
    """Both in the types that sums are made of. Raises BadUpdate for scores that do not fit, BadData for targets that do not; names no value."""
    if scores.dtype.kind not in "fiub" or targets.dtype.kind not in "fiub":
        raise BadUpdate("Scores and targets must be arrays of numbers.")
    scores = scores.astype(np.float64)
    if len(scores) != len(targets) or not _fitting(task, scores, targets):
        raise BadUpdate(say("Scores and targets do not have the shapes of a {task} task.", task=task))
    if not np.isfinite(scores).all():
        raise BadUpdate("Scores are not finite.")
    if not np.isfinite(targets).all():
        raise BadData("Targets are not finite.")
    if task == "regression":
        return scores, targets.astype(np.float64)
    if task == "survival":
        return _checked_survival(scores, targets.astype(np.float64))
    several = task in ("multiclass", "segmentation")
    classes = scores.shape[1] if several else 2
    if classes < 2:
        raise BadUpdate(say("A {task} task has scores for two classes or more.", task=task))
    if not np.isin(targets, np.arange(classes)).all():
        raise BadData(say("Targets are not class numbers 0 to {classes}.", classes=classes - 1))
    clipped = np.clip(scores, 0.0, 1.0)
    if (np.abs(scores - clipped) > PROBABILITY_TOLERANCE).any():
        raise BadUpdate("Scores are not probabilities between 0 and 1.")
    if several and (np.abs(clipped.sum(axis=1) - 1) > TOTAL_TOLERANCE).any():
        raise BadUpdate("The probabilities of the classes do not add up to 1.")
    return clipped, targets.astype(np.int64)


def _fitting(task: Task, scores: Array, targets: Array) -> bool:
    """Whether both have the shapes of the task; their lengths are known to be the same."""
    match task:
        case "multiclass":
            return (scores.ndim, targets.ndim) == (2, 1)
        case "segmentation":
            return (scores.ndim, targets.ndim) == (4, 3) and scores.shape[2:] == targets.shape[1:]
        case "multilabel":
            return scores.ndim == 2 and scores.shape == targets.shape
        case "survival":
            return scores.ndim in (1, 2) and targets.shape == (len(scores), 2)
        case _:
            return (scores.ndim, targets.ndim) == (1, 1)


def _checked_survival(scores: Floats, targets: Floats) -> tuple[Floats, Array]:
    if (targets[:, 0] < 0).any() or not np.isin(targets[:, 1], (0, 1)).all():
        raise BadData("Targets are not times from 0 with an event of 0 or 1.")
    if scores.ndim == 1:
        return scores, targets
    clipped = np.clip(scores, 0.0, 1.0)
    if (np.abs(scores - clipped) > PROBABILITY_TOLERANCE).any():
        raise BadUpdate("Scores are not probabilities between 0 and 1.")
    return clipped, targets
