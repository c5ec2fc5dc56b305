"""Whether groups differ in how long they live without the event: log-rank tests from counts at risk and events per time.

``Surv(time, event) ~ group + strata(…)``. With hospitals as strata each sends the excess of events over those expected and its covariance, and no
time leaves it. Pooled, counts at risk and of events are added over hospitals at times common to all: the study states ``edges``, and an event
counts at the end of its interval (after the last edge all are under observation no longer). By how much that moves the test is not told by the
counts; the finer the edges, the less.

Papers: N. Mantel, "Evaluation of survival data and two new rank order statistics", Cancer Chemotherapy Reports 50 (1966); weights by E. A. Gehan,
Biometrika 52 (1965), R. E. Tarone, J. Ware, Biometrika 64 (1977), T. R. Fleming, D. P. Harrington, "Counting Processes and Survival Analysis"
(1991), section 7.3: S(t−)^p (1 − S(t−))^q with Kaplan and Meier's S of all groups together.

Leaves the site: ``size`` = rows and patients; ``count`` = per group patients and events; ``observed`` = per group the weighted events;
``expected`` = per group those expected if all groups were alike; ``covariance`` = that of their difference; ``at_risk`` = where sites are pooled,
per stratum, group and interval how many are under observation; ``events`` = likewise how many have the event.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple, TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadInput
from aimer2.core.study import Feature
from aimer2.core.table import Cell, Table, number
from aimer2.statistics import at_risk as counting
from aimer2.statistics.comparison import SIGNIFICANCE, facts, significance_cells
from aimer2.statistics.group_sequential import AbstractLook
from aimer2.statistics.significance import Significance, chi_squared
from aimer2.statistics.statistic import Values

Floats = NDArray[np.float64]
Weighting: TypeAlias = Literal["log_rank", "gehan", "tarone_ware", "fleming_harrington"]

RELATIVE_RANK = 1e-10


@final
class Excess(NamedTuple):
    """Per group ``(G,)`` weighted events and those expected if all groups were alike, and the covariance ``(G, G)`` of their difference."""

    observed: Floats
    expected: Floats
    covariance: Floats

    def plus(self, other: Excess) -> Excess:
        """Of two strata together."""
        return Excess(self.observed + other.observed, self.expected + other.expected, self.covariance + other.covariance)


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


@final
@dataclass(frozen=True, kw_only=True)
class LogRank(AbstractLook):
    """``weights``, with ``p`` and ``q`` for Fleming and Harrington's; ``sites``: each a stratum, or pooled at the ``edges``, rising and above 0."""

    weights: Weighting = "log_rank"
    p: Annotated[float, Field(ge=0)] = 0.0
    q: Annotated[float, Field(ge=0)] = 0.0
    sites: Literal["strata", "pooled"] = "strata"
    edges: tuple[float, ...] = ()
    is_survival: ClassVar[bool] = True
    takes_strata: ClassVar[bool] = True
    of_sites: ClassVar[frozenset[str]] = frozenset({"observed", "expected", "covariance"})

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if (self.sites == "pooled") != bool(self.edges):
            yield "`edges` are the common times at which sites are pooled: state them with sites = pooled, and leave them out otherwise"
        yield from counting.faults(self.edges)

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        rows = self.read(frame)
        given, codes = counting.times(self.parsed, rows), self.codes(rows)
        for code, level in enumerate(self.levels):
            if disclosure.is_small(rows.counted((given[1] > 0) & (codes == code))):
                yield f"fewer than {disclosure.minimum_cell} patients with {self._group} = {level} have the event"
        if self.sites == "pooled" and not disclosure.allows_exact_values(secure=secure):
            yield from counting.against(rows, self.strata(rows) * len(self.levels) + codes, given, self.edges, disclosure)

    def _counts(self, rows: Frame) -> tuple[Floats, Floats]:
        """``(strata, G, T)`` at risk and with the event at the edges."""
        strata, groups = math.prod(len(self.categories_of(one)) for one in self.parsed.strata), len(self.levels)
        cell = self.strata(rows) * groups + self.codes(rows)
        at_risk, events = counting.at_edges(counting.times(self.parsed, rows), cell, strata * groups, self.edges)
        return at_risk.reshape(strata, groups, -1), events.reshape(strata, groups, -1)

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        time, event = counting.times(self.parsed, rows)
        count = np.stack([self.per_group(rows, np.ones(len(rows))), self.per_group(rows, event.astype(np.float64))], axis=1)
        made = {"size": self.size(rows), "count": count}
        if self.sites == "pooled":
            at_risk, events = self._counts(rows)
            return made | {"at_risk": at_risk, "events": events}
        groups = len(self.levels)
        found = Excess(np.zeros(groups), np.zeros(groups), np.zeros((groups, groups)))
        stratum, codes = self.strata(rows), self.codes(rows)
        for one in np.unique(stratum):
            own = stratum == one
            at_risk, events = counting.counts((time[own], event[own]), codes[own], groups, np.unique(time[own]))
            found = found.plus(self._excess(at_risk, events[0]))
        return made | {"observed": found.observed, "expected": found.expected, "covariance": found.covariance}

    def _excess(self, at_risk: Floats, events: Floats) -> Excess:
        return excess(at_risk, events, Weights(self.weights, self.p, self.q))

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        return total, True

    def answer(self, name: str, values: Values) -> Sequence[Table]:
        if self.sites == "pooled":
            first, *others = (self._excess(*stratum) for stratum in zip(values["at_risk"], values["events"], strict=True))
            found = first
            for other in others:
                found = found.plus(other)
        else:
            found = Excess(values["observed"], values["expected"], values["covariance"])
        lines: list[tuple[Cell, ...]] = [
            (level, round(patients), round(events), number(observed), number(expected))
            for level, (patients, events), observed, expected in zip(self.levels, values["count"], found.observed, found.expected, strict=True)
        ]
        columns = (str(self._group), "count", "events", "observed", "expected")
        groups = Table(analysis=name, method=self.name, title="Groups", columns=columns, rows=tuple(lines))
        test = Table(
            analysis=name,
            method=self.name,
            title="Test",
            columns=("test", *SIGNIFICANCE),
            rows=((self.weights.replace("_", "-"), *significance_cells(compare(found))),),
            facts=facts(values["size"]),
            notes=("Times are the ends of the stated intervals.",) if self.sites == "pooled" else (),
        )
        if not self.planned:
            return [groups, test]
        z = math.copysign(math.sqrt(compare(found).statistic), found.observed[1] - found.expected[1])
        return [groups, test, *self.look(name, z, float(values["count"][:, 1].sum()))]


EXAMPLE = LogRank(
    formula="Surv(t, y) ~ g", features=(Feature(name="t"), Feature(name="y"), Feature(name="g", kind="category", categories=("a", "b")))
)
