"""Was this patient in the training data? Told from how sure a model is of a record's outcome.

Yeom et al. 2018, "Privacy Risk in Machine Learning": a model is surer of what it was trained on. Carlini et al. 2022, "Membership Inference Attacks
From First Principles", section V (offline): the attacker trains models of his own without the record, and asks how unusual the model's certainty
is among theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.bool_]

_Z = 1.959963984540054
_SURE = 1e-7


@final
@dataclass(frozen=True, slots=True)
class Told:
    """How well members are told from others: the chance that a member's score is above another's. 0.5 is guessing, 1 is certainty."""

    auc: float
    low: float
    high: float


def certainty(scores: npt.NDArray[Any], targets: npt.NDArray[Any]) -> Floats:
    """Of each record's own outcome: the log odds of its class, or minus the squared error of a number. ``scores`` as `Learner.predict` gives
    them, (n,) or (n, classes)."""
    if scores.ndim == 2:
        odds: Floats = _log_odds(scores[np.arange(len(scores)), targets.astype(np.int64)])
        return odds
    if np.isin(targets, (0, 1)).all() and scores.min(initial=0.0) >= 0 and scores.max(initial=0.0) <= 1:
        return _log_odds(np.where(targets == 1, scores, 1 - scores))
    squared: Floats = -((scores - targets) ** 2)
    return squared


def unusual(attacked: Floats, certainties: Sequence[Floats], absent: Sequence[Rows]) -> Floats:
    """How far each record's certainty lies above that of models which were trained without it, in their standard deviations.

    ``certainties`` (models, n): of the attacker's own models; ``absent`` says for each of them which records it has not seen. The deviation is
    taken over all records, as each has few models.
    """
    known, without = np.array(certainties), np.array(absent)
    count = without.sum(axis=0)
    mean = np.where(without, known, 0.0).sum(axis=0) / np.maximum(count, 1)
    squares = np.where(without, (known - mean) ** 2, 0.0).sum() / max(int((count - 1).clip(0).sum()), 1)
    raised: Floats = np.where(count > 0, attacked - mean, 0.0) / sqrt(max(squares, 1e-300))
    return raised


def told_apart(members: Sequence[Floats], others: Sequence[Floats]) -> Told:
    """The mean area under the curve over attacked models, with a 95 % interval for how much the models differ; for one model Hanley and
    McNeil 1982. Each entry: the scores of one model's members, and of as many others as there are."""
    areas = np.array([_area(member, other) for member, other in zip(members, others, strict=True)])
    middle = float(areas.mean())
    if len(areas) > 1:
        half = _Z * float(areas.std(ddof=1)) / sqrt(len(areas))
    else:
        half = _Z * _hanley(middle, len(members[0]), len(others[0]))
    return Told(middle, max(0.0, middle - half), min(1.0, middle + half))


def _area(members: Floats, others: Floats) -> float:
    """The share of pairs in which the member is above; of equal ones half."""
    order = np.sort(others)
    below = np.searchsorted(order, members, "left").sum() + np.searchsorted(order, members, "right").sum()
    return float(below) / (2 * len(members) * len(others))


def _hanley(area: float, members: int, others: int) -> float:
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (members - 1) * (one - area**2) + (others - 1) * (two - area**2)
    return sqrt(spread / (members * others))


def _log_odds(probability: Floats) -> Floats:
    held = np.clip(probability, _SURE, 1 - _SURE)
    odds: Floats = np.log(held) - np.log1p(-held)
    return odds
