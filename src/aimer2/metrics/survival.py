"""Whether a model tells who has the event earlier, and how likely it is by a given time, from sums.

Papers: F. E. Harrell et al., "Evaluating the yield of medical tests", JAMA 247 (1982), for the concordance; E. Graf, C. Schmoor, W. Sauerbrei,
M. Schumacher, "Assessment and comparison of prognostic classification schemes for survival data", Statistics in Medicine 18 (1999), for the
Brier score with weights for censoring.

**Concordance.** A pair of patients is comparable if the one with the earlier time had the event (at equal times: one had it and the other was
censored), and concordant if that one has the higher risk, a half if the risks are equal. Pairs are formed within a site only: so their numbers
add up exactly, nothing is binned, and no patient is compared with one of another hospital, where times may begin otherwise. Over one site it is
Harrell's C.

**Risks by a horizon h**, of models with time intervals. A patient with the event by h counts 1/G(T−), one observed beyond h 1/G(h), one
censored before h 0, where G is the Kaplan-Meier estimate of not being censored among the evaluated patients of the *same site*: censoring may
differ between hospitals. The weighted events over n are then the site's own Kaplan-Meier risk. A site whose follow-up ends before h says
nothing about h, and sends zeros for it.

Leaves the site: of the pairs (float64 (5,)): comparable, concordant, and over the patients Σc², Σcp, Σp² with c and p the concordant and
comparable pairs that a patient is in. For each horizon (float64 (H, 3)): patients, sum and sum of squares of the weighted squared distance; and
in ten bins of the predicted risk (float64 (H, 3, 10)) patients, sum of the risks, sum of the weighted events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from aimer2.core.said import mark
from aimer2.metrics import calibration
from aimer2.metrics.intervals import Estimate, estimate, logit_interval, mean, undefined

Array = NDArray[Any]
Floats = NDArray[np.float64]

PAIRS_AT_A_TIME = 1 << 22

NO_HORIZON = mark("no site has follow-up to this horizon")


@final
@dataclass(frozen=True, slots=True)
class Timeline:
    """The ends of the time intervals that a model tells of, and those of them at which its risks are judged, in the unit of the times."""

    ends: tuple[float, ...] = ()
    horizons: tuple[float, ...] = ()


NO_TIMELINE = Timeline()


def risks(scores: Floats, timeline: Timeline) -> Floats:
    """One number per patient, higher for an earlier event: a Cox model's score (n,); of survival probabilities (n, J) minus the time expected
    to be lived until the last interval's end."""
    if scores.ndim == 1:
        return scores
    widths = np.diff((0.0, *timeline.ends))
    lived = np.hstack((np.ones((len(scores), 1)), scores))
    return -np.asarray((lived[:, 1:] + lived[:, :-1]) / 2 @ widths)


def pair_sums(scores: Floats, targets: Floats, timeline: Timeline) -> Floats:
    """Over all pairs of patients; scores as in `risks`, targets (n, 2) times and events."""
    return compared(risks(scores, timeline), targets[:, 0], targets[:, 1] == 1)


def compared(risk: Floats, time: Floats, event: NDArray[np.bool_], entry: Floats | None = None) -> Floats:
    """The five sums over all pairs; all given ``(n,)``. Who enters at or after an event is not compared with it. Takes as many comparisons as events
    times patients."""
    concordant, comparable = np.zeros(len(time)), np.zeros(len(time))
    events = np.flatnonzero(event)
    step = max(1, PAIRS_AT_A_TIME // max(1, len(time)))
    for start in range(0, len(events), step):
        first = events[start : start + step, None]
        pairs = (time[first] < time) | ((time[first] == time) & ~event)
        if entry is not None:
            pairs &= entry < time[first]
        won = pairs * (0.5 * (risk[first] == risk) + (risk[first] > risk))
        comparable += pairs.sum(axis=0)
        concordant += won.sum(axis=0)
        comparable[first[:, 0]] += pairs.sum(axis=1)
        concordant[first[:, 0]] += won.sum(axis=1)
    return np.array(
        [comparable.sum() / 2, concordant.sum() / 2, concordant @ concordant, concordant @ comparable, comparable @ comparable], np.float64
    )


def concordance(sums: Floats, n: float) -> Estimate:
    """Concordant of comparable pairs within the sites. The interval takes each pair's patients for independent: with r = c − C·p per patient
    the variance is Σr² over the squared number of pairs."""
    comparable, concordant, cc, cp, pp = map(float, sums)
    if comparable <= 0:
        return undefined("no two patients of a site can be compared", round(n))
    value = concordant / comparable
    variance = max(cc - 2 * value * cp + value * value * pp, 0.0) / comparable**2
    interval = logit_interval(value, variance)
    return estimate(value, interval, n, "pairs within sites" if interval else "pairs within sites; no interval: nothing varies")


def weights(targets: Floats, horizon: float) -> Floats | None:
    """How much each patient counts at the horizon; None where the follow-up ends before it."""
    time, event = targets[:, 0], targets[:, 1] == 1
    if not len(time) or not ((time > horizon).any() or event[time == time.max()].all()):
        return None
    known = event & (time <= horizon)
    return np.where(known, 1 / _uncensored(targets, time, before=True), 0.0) + np.where(
        time > horizon, 1 / _uncensored(targets, np.array([horizon]), before=False), 0.0
    )


def _uncensored(targets: Floats, at: Floats, *, before: bool) -> Floats:
    """Kaplan-Meier estimate of not being censored until then (``before``: until just before); events at a time come before its censorings."""
    time, censored = targets[:, 0], targets[:, 1] == 0
    times, counts = np.unique(time[censored], return_counts=True)
    at_risk = (len(time) - np.searchsorted(np.sort(time), times, side="left")).astype(np.float64)
    at_risk -= [np.count_nonzero((time == one) & ~censored) for one in times]
    curve = np.concatenate(([1.0], np.cumprod(1 - counts / np.maximum(at_risk, 1))))
    # Where nobody is left the curve is 0, and no patient counts there.
    place = np.searchsorted(times, at, side="left" if before else "right")
    return np.maximum(curve[place], np.finfo(np.float64).tiny)


def brier_sums(scores: Floats, targets: Floats, timeline: Timeline) -> Floats:
    """(H, 3); scores (n, J) survival probabilities at the intervals' ends."""
    return np.stack([_brier_at(scores, targets, timeline, horizon) for horizon in timeline.horizons])


def _brier_at(scores: Floats, targets: Floats, timeline: Timeline, horizon: float) -> Floats:
    weight = weights(targets, horizon)
    if weight is None:
        return np.zeros(3)
    beyond = targets[:, 0] > horizon
    loss = weight * (scores[:, timeline.ends.index(horizon)] - beyond) ** 2
    return np.array([len(loss), loss.sum(), (loss * loss).sum()])


def risk_bins(scores: Floats, targets: Floats, timeline: Timeline) -> Floats:
    """(H, 3, 10): as `aimer2.metrics.calibration.bins`, of the risk by each horizon, events weighted."""
    return np.stack([_bins_at(scores, targets, timeline, horizon) for horizon in timeline.horizons])


def _bins_at(scores: Floats, targets: Floats, timeline: Timeline, horizon: float) -> Floats:
    weight = weights(targets, horizon)
    if weight is None:
        return np.zeros((3, calibration.BINS))
    seen = weight * (targets[:, 0] <= horizon)
    return calibration.bins(1 - scores[:, timeline.ends.index(horizon)], seen)


def brier(sums: Floats) -> Estimate:
    """The weighted mean squared distance of survival from its probability; its interval takes the weights for known."""
    return mean(float(sums[1]), float(sums[2]), float(sums[0]), least=0.0) if sums[0] > 0 else undefined(NO_HORIZON)


def calibration_error(table: Floats) -> Estimate:
    return calibration.expected_error(table) if table[0].sum() > 0 else undefined(NO_HORIZON)


def in_the_large(table: Floats) -> Estimate:
    """Observed minus mean predicted risk: positive means risks are understated."""
    n, predicted, observed = (float(part) for part in table.sum(axis=1))
    return estimate((observed - predicted) / n, None, n, "no interval") if n > 0 else undefined(NO_HORIZON)
