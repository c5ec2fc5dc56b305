"""The common odds ratio and risk ratio of an exposure over hospitals, from 2×2 tables that stay there.

``event ~ exposure + strata(…)``, event and exposure categories of two, or the event 0 or 1. The event is its second category, and the exposed are
compared with those of the first, the reference. Each hospital is a stratum (or has several): what it sends are the terms of the sums in the
estimators, not its table. A second round, which tells the common odds ratio, gathers the Breslow-Day test of whether it is one and the same.

Papers: N. Mantel, W. Haenszel, "Statistical aspects of the analysis of data from retrospective studies of disease", JNCI 22 (1959);
J. Robins, N. Breslow, S. Greenland, "Estimators of the Mantel-Haenszel variance consistent in both sparse data and large-strata limiting
models", Biometrics 42 (1986); S. Greenland, J. Robins, "Estimation of a common effect parameter from sparse follow-up data", Biometrics 41
(1985), for the variance of the risk ratio; N. E. Breslow, N. E. Day, "Statistical Methods in Cancer Research" I (1980), equation 4.30;
R. E. Tarone, "On heterogeneity tests based on efficient scores", Biometrika 72 (1985).

Leaves the site: ``size`` = rows and patients; ``terms`` = the site's terms of the eleven sums that the common ratios, their variances and the test
are made of; ``homogeneity`` = its terms of the four sums of the Breslow-Day test; ``count`` = where sites are pooled, per stratum, exposure and
event how many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadInput
from aimer2.core.study import Feature
from aimer2.core.table import Table
from aimer2.statistics.comparison import EFFECT, SIGNIFICANCE, AbstractComparison, Level, effect_cells, events, facts, has_few, significance_cells
from aimer2.statistics.significance import Effect, Significance, chi_squared, ratio
from aimer2.statistics.statistic import Values

Floats = NDArray[np.float64]

TERMS = ("r", "s", "pr", "ps_qr", "qs", "rr", "rs", "rv", "excess", "variance", "strata")
HOMOGENEITY = ("squares", "excess", "variance", "strata")


@final
@dataclass(frozen=True, slots=True)
class Common:
    """``test`` is Cochran-Mantel-Haenszel's χ² without correction for continuity, ``corrected`` the one with."""

    odds_ratio: Effect
    risk_ratio: Effect
    test: Significance
    corrected: Significance
    strata: int


@final
@dataclass(frozen=True, slots=True)
class Homogeneity:
    """Whether the odds ratio is the same in all strata: Breslow-Day, and with Tarone's correction."""

    breslow_day: Significance
    tarone: Significance


def terms(tables: ArrayLike) -> Floats:
    """What a hospital's 2×2 tables ``(strata, 2, 2)`` (rows exposed and not, columns with the event and without) add to `TERMS`: ``(11,)``.

    A stratum in which nobody, or everybody, has the event or the exposure adds nothing to the test or the odds ratio, and is not counted; one in
    which everybody has the event still speaks of the risk ratio.
    """
    counts = _counts(tables)
    a, b, c, d = counts.reshape(-1, 4).T
    n = counts.sum(axis=(1, 2))
    p, q, r, s = (a + d) / n, (b + c) / n, a * d / n, b * c / n
    exposed, events = a + b, a + c
    variance = exposed * (c + d) * events * (b + d) / (n**2 * np.maximum(n - 1, 1))
    risk = a * (c + d) / n, c * exposed / n, (exposed * (c + d) * events - a * c * n) / n**2
    parts = (r, s, p * r, p * s + q * r, q * s, *risk, a - exposed * events / n, variance, _informative(counts))
    return np.array([float(part.sum()) for part in parts])


def common(sums: Floats, level: float = 0.95) -> Common:
    """Raises BadInput where no stratum tells of both exposures and both outcomes."""
    r, s, pr, ps_qr, qs, rr, rs, rv, excess, variance, strata = (float(one) for one in sums)
    if min(r, s, rr, rs, variance) <= 0:
        raise BadInput("No odds ratio: over all strata, exposed and others must both have patients with the event and without.")
    odds_error = math.sqrt(pr / (2 * r**2) + ps_qr / (2 * r * s) + qs / (2 * s**2))
    return Common(
        odds_ratio=ratio(math.log(r / s), odds_error, level),
        risk_ratio=ratio(math.log(rr / rs), math.sqrt(rv / (rr * rs)), level),
        test=chi_squared(excess**2 / variance, 1),
        corrected=chi_squared(max(abs(excess) - 0.5, 0.0) ** 2 / variance, 1),
        strata=round(strata),
    )


def homogeneity_terms(tables: ArrayLike, odds_ratio: float) -> Floats:
    """What a hospital's tables add to `HOMOGENEITY` at the common odds ratio: ``(4,)``."""
    counts = _counts(tables)
    counts = counts[_informative(counts)]
    a, exposed, events, n = counts[:, 0, 0], counts[:, 0].sum(axis=1), counts[:, :, 0].sum(axis=1), counts.sum(axis=(1, 2))
    expected = _expected(exposed, events, n, odds_ratio)
    others = np.stack([expected, exposed - expected, events - expected, n - exposed - events + expected])
    variance = 1 / (1 / others).sum(axis=0)
    parts = ((a - expected) ** 2 / variance, a - expected, variance, np.ones_like(n))
    return np.array([float(part.sum()) for part in parts])


def homogeneity(sums: Floats) -> Homogeneity:
    """Raises BadInput with fewer than two strata."""
    squares, excess, variance, strata = (float(one) for one in sums)
    if round(strata) < 2:
        raise BadInput("Whether strata have the same odds ratio needs two strata at least.")
    freedom = round(strata) - 1
    return Homogeneity(chi_squared(squares, freedom), chi_squared(max(squares - excess**2 / variance, 0.0), freedom))


def _counts(tables: ArrayLike) -> Floats:
    counts = np.asarray(tables, np.float64).reshape(-1, 2, 2)
    return np.asarray(counts[counts.sum(axis=(1, 2)) > 0])


def _informative(counts: Floats) -> NDArray[np.bool_]:
    return np.asarray((counts.sum(axis=2) > 0).all(axis=1) & (counts.sum(axis=1) > 0).all(axis=1))


def _expected(exposed: Floats, events: Floats, n: Floats, odds_ratio: float) -> Floats:
    """Exposed with the event, given the margins and the odds ratio: the root that lies within the margins, in the form that cancels nothing."""
    linear = odds_ratio * (exposed + events) + n - exposed - events
    root = np.sqrt(linear**2 - 4 * odds_ratio * (odds_ratio - 1) * exposed * events)
    return np.asarray(2 * odds_ratio * exposed * events / (linear + root))


@final
@dataclass(frozen=True, kw_only=True)
class MantelHaenszel(AbstractComparison):
    """``level``: of the intervals. ``sites``: each a stratum of its own, or pooled so that only ``strata(…)`` are strata."""

    level: Level = 0.95
    sites: Literal["strata", "pooled"] = "strata"
    most_groups: ClassVar[int] = 2
    takes_strata: ClassVar[bool] = True
    of_sites: ClassVar[frozenset[str]] = frozenset({"terms", "homogeneity"})

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if len(self.categories_of(self.outcome)) not in (0, 2):
            yield f"{self.outcome} must have two categories, the event being the second, or be 0 or 1"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        """Tables whose cells nobody can see, because they stay here and only terms of sums are added in secret, may have small cells."""
        yield from super().against(frame, disclosure, secure=secure)
        rows = self.read(frame)
        ill = events(self.outcome, self.categories_of(self.outcome), rows)
        if any(disclosure.is_small(rows.counted(one)) for one in (ill, ~ill)):
            yield f"fewer than {disclosure.minimum_cell} patients have the event, or not"
        if (not secure or self.sites == "pooled") and has_few(rows, self._cell(rows), disclosure):
            yield f"fewer than {disclosure.minimum_cell} patients are in a cell of a table"

    def _cell(self, rows: Frame) -> NDArray[np.int64]:
        """Each row's cell of the strata's tables: exposed first, with the event first."""
        ill = events(self.outcome, self.categories_of(self.outcome), rows)
        return self.strata(rows) * 4 + (1 - self.codes(rows)) * 2 + ~ill

    def _tables(self, rows: Frame) -> Floats:
        """``(strata, 2, 2)``."""
        strata = math.prod(len(self.categories_of(one)) for one in self.parsed.strata)
        return np.bincount(self._cell(rows), minlength=4 * strata).reshape(-1, 2, 2).astype(np.float64)

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        tables = self._tables(rows)
        if round_number == 2:
            return {"homogeneity": homogeneity_terms(tables, float(values["odds_ratio"]))}
        made = {"size": self.size(rows)}
        return made | ({"count": tables} if self.sites == "pooled" else {"terms": terms(tables)})

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        if round_number == 2:
            return {**values, **total}, True
        kept = {"size": total["size"], "terms": terms(total["count"]) if self.sites == "pooled" else total["terms"]}
        r, s = kept["terms"][:2]
        if min(r, s) <= 0:
            return kept, True
        kept["odds_ratio"] = np.array(r / s)
        return (kept | {"homogeneity": homogeneity_terms(total["count"], float(r / s))}, True) if self.sites == "pooled" else (kept, False)

    def told(self, values: Values) -> Values:
        return {name: values[name] for name in ("odds_ratio",) if name in values}

    def answer(self, name: str, values: Values) -> Sequence[Table]:
        found = common(values["terms"], self.level)
        lines = (("odds ratio", found.odds_ratio), ("risk ratio", found.risk_ratio))
        tests = [("Cochran-Mantel-Haenszel", found.test), ("Cochran-Mantel-Haenszel, corrected for continuity", found.corrected)]
        notes: tuple[str, ...] = ("Strata are those in which both exposures and both outcomes occur.",)
        try:
            same = homogeneity(values["homogeneity"])
            tests += [("same odds ratio: Breslow-Day", same.breslow_day), ("same odds ratio: Tarone", same.tarone)]
        except BadInput as error:
            notes = (*notes, error.sentence)
        event = self.categories_of(self.outcome) or ("0", "1")
        shown = {**facts(values["size"]), "strata": found.strata, "event": f"{self.outcome} = {event[1]}", "level": self.level}
        return [
            Table(
                analysis=name,
                method=self.name,
                title="Common ratios",
                columns=("term", *EFFECT),
                rows=tuple((f"{term}: {self.levels[1]} with {self.levels[0]}", *effect_cells(effect)) for term, effect in lines),
                facts=shown,
                notes=("The standard errors are those of the logarithms.",),
            ),
            Table(
                analysis=name,
                method=self.name,
                title="Tests",
                columns=("test", *SIGNIFICANCE),
                rows=tuple((label, *significance_cells(test)) for label, test in tests),
                notes=notes,
            ),
        ]


EXAMPLE = MantelHaenszel(formula="y ~ g", features=(Feature(name="y"), Feature(name="g", kind="category", categories=("a", "b"))))
