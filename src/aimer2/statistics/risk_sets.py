"""Cox's partial likelihood from sums over who is at risk at each time: what a site adds up, and what is read from the sums of all.

For patients with scaled columns z, risks r = exp(zβ) and the set R(t) of those under observation just before t: S0 = Σ r, S1 = Σ r z,
S2 = Σ r zzᵀ over R(t), and E0, E1, E2 the same over the d(t) who have the event at t. By Efron (1977, JASA 72), with c = 0, 1/d, …, (d − 1)/d,

    log L = Σ_events zβ − Σ_t Σ_c log(S0 − cE0),   U = Σ_events z − Σ_t Σ_c (S1 − cE1)/(S0 − cE0),

and the information is the sum of the spread of z in each of these sets; by Breslow (1974, Biometrics 30) c is 0 throughout. All of these are
sums over patients, so sums of the sites' sums give the pooled likelihood to the last digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from aimer2.statistics.statistic import Values

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Ties: TypeAlias = Literal["efron", "breslow"]

STEEPEST = 40.0
"""Largest |zβ|: sums in secret have room for the risks that come of it."""


@final
@dataclass(frozen=True, slots=True)
class Observed:
    """Of each row the first and last time at which it is under observation, as numbers of times from 0 (last < first: at none), whether it has the
    event at the last, and its stratum; all ``(n,)``."""

    first: Integers
    last: Integers
    event: NDArray[np.bool_]
    stratum: Integers

    def at(self, kept: Integers) -> Observed:
        """Over these times alone, which hold every event; rising."""
        last = np.searchsorted(kept, self.last, side="right") - 1
        return Observed(np.searchsorted(kept, self.first, side="left"), last, self.event, self.stratum)

    def deaths(self, strata: int, times: int) -> Floats:
        """``(strata, times)``: how many have the event."""
        found = np.zeros((strata, times))
        np.add.at(found, (self.stratum[self.event], self.last[self.event]), 1.0)
        return found


def risk_sums(columns: Floats, beta: Floats, observed: Observed, strata: int, times: int) -> Values:
    """Of a site's rows: ``risk`` and ``tied`` ``(strata, times, 1 + p + p(p + 1)/2)``, S0, S1 and the upper triangle of S2, and the same of E;
    ``deaths`` ``(strata, times)``; ``observed`` ``(p,)`` = Σ_events z."""
    width = columns.shape[1]
    risks = np.exp(np.clip(columns @ beta, -STEEPEST, STEEPEST))
    upper, lower = np.triu_indices(width)
    parts = np.hstack([np.ones((len(columns), 1)), columns, columns[:, upper] * columns[:, lower]]) * risks[:, None]
    risk = np.zeros((strata, times + 1, parts.shape[1]))
    there = observed.last >= observed.first
    np.add.at(risk, (observed.stratum[there], observed.last[there]), parts[there])
    late = there & (observed.first > 0)
    np.subtract.at(risk, (observed.stratum[late], observed.first[late] - 1), parts[late])
    tied = np.zeros((strata, times, parts.shape[1]))
    event = observed.event
    np.add.at(tied, (observed.stratum[event], observed.last[event]), parts[event])
    return {
        "risk": np.cumsum(risk[:, ::-1], axis=1)[:, ::-1][:, :times].copy(),
        "tied": tied,
        "deaths": observed.deaths(strata, times),
        "observed": columns[event].sum(axis=0),
    }


@final
@dataclass(frozen=True, slots=True)
class Partial:
    """The partial likelihood at β, its derivative ``(p,)`` and minus its second derivative ``(p, p)``."""

    likelihood: float
    score: Floats
    information: Floats


@final
@dataclass(frozen=True, slots=True)
class Sets:
    """The set of each event, those tied apart: its ``place`` among the times that have an event ``(E,)``, its c, S0 − cE0 and mean of z
    ``(E, p)``; ``risk`` and ``tied`` of these times ``(H, …)``; ``held``: which of all strata and times they are."""

    place: Integers
    share: Floats
    whole: Floats
    means: Floats
    risk: Floats
    tied: Floats
    held: NDArray[np.bool_]

    @classmethod
    def of(cls, sums: Values, width: int, ties: Ties) -> Sets:
        deaths = np.rint(sums["deaths"]).astype(np.int64).ravel()
        held = deaths > 0
        count = deaths[held]
        risk, tied = (sums[name].reshape(len(deaths), sums[name].shape[-1])[held] for name in ("risk", "tied"))
        place = np.repeat(np.arange(len(count)), count)
        order = np.arange(len(place)) - np.repeat(np.cumsum(count) - count, count)
        share = order / count[place] if ties == "efron" else np.zeros(len(place))
        whole = risk[place, 0] - share * tied[place, 0]
        means = (risk[place, 1 : 1 + width] - share[:, None] * tied[place, 1 : 1 + width]) / whole[:, None]
        return cls(place, share, whole, means, risk, tied, held)

    def spread(self, weight: Floats) -> Floats:
        """``(p, p)``: the spread of z in each set, times the event's weight, summed."""
        width, times = self.means.shape[1], len(self.risk)
        # Σ_c (S2 − cE2)/(S0 − cE0): the weights are added first, so no array of events by pairs of columns is made
        plain = np.bincount(self.place, weight / self.whole, times)
        shared = np.bincount(self.place, weight * self.share / self.whole, times)
        packed = plain @ self.risk[:, 1 + width :] - shared @ self.tied[:, 1 + width :]
        found = np.zeros((width, width))
        found[np.triu_indices(width)] = packed
        return np.asarray(found + found.T - np.diag(np.diag(found)) - (self.means * weight[:, None]).T @ self.means)

    def per_time(self, values: Floats) -> Floats:
        """``(S · T, k)``: of values ``(E, k)`` of the events the sums at each stratum and time."""
        found = np.zeros((len(self.held), values.shape[1]))
        np.add.at(found, np.flatnonzero(self.held)[self.place], values)
        return found


def partial(sums: Values, beta: Floats, ties: Ties) -> Partial:
    """From the sums of all sites, or of one alone; of nobody all is 0."""
    sets = Sets.of(sums, len(beta), ties)
    likelihood = float(sums["observed"] @ beta) - float(np.log(sets.whole).sum())
    return Partial(likelihood, sums["observed"] - sets.means.sum(axis=0), sets.spread(np.ones(len(sets.place))))
