"""Whether groups differ in how long they live without the event: log-rank tests from counts at risk and events per time.

Stratified by hospital, each sends the excess of events over those expected and its covariance, and no curve; not stratified, the counts at every
time are added over hospitals first. Both add up.

Papers: N. Mantel, "Evaluation of survival data and two new rank order statistics", Cancer Chemotherapy Reports 50 (1966); weights by E. A. Gehan,
Biometrika 52 (1965), R. E. Tarone, J. Ware, Biometrika 64 (1977), T. R. Fleming, D. P. Harrington, "Counting Processes and Survival Analysis"
(1991), section 7.3: S(t−)^p (1 − S(t−))^q with Kaplan and Meier's S of all groups together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from aimer2.core.errors import BadInput
from aimer2.statistics.significance import Significance, chi_squared

Floats = NDArray[np.float64]
Weighting: TypeAlias = Literal["log_rank", "gehan", "tarone_ware", "fleming_harrington"]

RELATIVE_RANK = 1e-10


@final
class Excess(NamedTuple):
    """Per group ``(G,)`` weighted events and those expected if all groups were alike, and the covariance ``(G, G)`` of their difference."""

    observed: Floats
    expected: Floats
    covariance: Floats


@final
@dataclass(frozen=True, slots=True)
class Weights:
    """How much a time counts: all alike, by patients at risk, by their root, or by survival to the powers ``p`` (early) and ``q`` (late)."""

    kind: Weighting = "log_rank"
    p: float = 0.0
    q: float = 0.0

    def at(self, at_risk: Floats, events: Floats) -> Floats:
        """``(T,)`` from the counts of all groups together."""
        if self.kind == "log_rank":
            return np.ones_like(at_risk)
        if self.kind == "gehan":
            return at_risk
        if self.kind == "tarone_ware":
            return np.sqrt(at_risk)
        survival = np.cumprod(1 - events / np.maximum(at_risk, 1))
        before = np.concatenate(([1.0], survival[:-1]))
        return np.asarray(before**self.p * (1 - before) ** self.q)


def excess(at_risk: Floats, events: Floats, weights: Weights | None = None) -> Excess:
    """From counts ``(G, T)`` of patients at risk just before each time and of events at it, in order of time; within one stratum."""
    n, d = at_risk.sum(axis=0), events.sum(axis=0)
    held = n > 0
    at_risk, events, n, d = at_risk[:, held], events[:, held], n[held], d[held]
    w = (weights or Weights()).at(n, d)
    shares = at_risk / n
    spread = w**2 * d * (n - d) / np.maximum(n - 1, 1)
    covariance = np.diag((shares * spread).sum(axis=1)) - (shares * spread) @ shares.T
    return Excess((events * w).sum(axis=1), (shares * d * w).sum(axis=1), covariance)


def compare(sums: Excess) -> Significance:
    """χ² of the sums over strata. Raises BadInput where no stratum has an event with two groups at risk."""
    values, vectors = np.linalg.eigh(sums.covariance)
    kept = values > RELATIVE_RANK * max(float(values.max()), 0.0)
    if not kept.any():
        raise BadInput("No event happened while patients of two groups were at risk, so the groups cannot be compared.")
    distance = vectors[:, kept].T @ (sums.observed - sums.expected)
    return chi_squared(float((distance**2 / values[kept]).sum()), int(kept.sum()))
