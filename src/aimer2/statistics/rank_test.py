"""Whether values of one group tend to lie above another's: Mann-Whitney and Kruskal-Wallis from histograms.

``outcome ~ group``. Ranks need the order of all patients of all hospitals; what is sent are counts per group in bins with common edges. Patients of
a bin share its middle rank, as ties do, so the test is exactly that of the binned values. By how much binning can move it is bounded from the
counts alone: a pair of patients within one bin counts a half and could count 0 or 1. So of more groups each mean rank has a range, and the
statistic one at least as wide as its own.

Papers: H. B. Mann, D. R. Whitney, Annals of Mathematical Statistics 18 (1947); W. H. Kruskal, W. A. Wallis, JASA 47 (1952), both with the usual
correction for ties.

Leaves the site: ``size`` = rows and patients; ``count`` = per group and bin of the outcome how many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadData, BadInput
from aimer2.core.said import say
from aimer2.core.study import Feature
from aimer2.core.table import Table, number
from aimer2.statistics.comparison import SIGNIFICANCE, AbstractComparison, facts, has_few, significance_cells
from aimer2.statistics.significance import Significance, chi_squared, standardised
from aimer2.statistics.statistic import Values

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Ranked:
    """``superiority`` is the chance that a patient of the first group lies above one of the second, ties at half, and ``possible`` its range over
    all values that have these counts."""

    u: float
    test: Significance
    superiority: float
    possible: tuple[float, float]


def mann_whitney(counts: NDArray[np.integer] | Floats, *, continuity: bool = True) -> Ranked:
    """From counts ``(2, bins)`` in order of the values, by the normal approximation. Raises BadInput where a group is empty or all lie in one bin."""
    table = np.asarray(counts, np.float64)
    first, second = table
    n1, n2 = table.sum(axis=1)
    if min(n1, n2) <= 0:
        raise BadInput("A rank test needs patients in both groups.")
    below = np.cumsum(second) - second
    u, tied = float(first @ (below + second / 2)), float(first @ second)
    variance = n1 * n2 / 12 * (n1 + n2 + 1 - _ties(table) / ((n1 + n2) * (n1 + n2 - 1)))
    if variance <= 0:
        raise BadInput("All values lie in one bin, so their ranks say nothing. Choose finer bins.")
    distance = u - n1 * n2 / 2
    corrected = math.copysign(max(abs(distance) - (0.5 if continuity else 0.0), 0.0), distance)
    pairs = n1 * n2
    return Ranked(u, standardised(corrected / math.sqrt(variance)), u / pairs, ((u - tied / 2) / pairs, (u + tied / 2) / pairs))


def kruskal_wallis(counts: NDArray[np.integer] | Floats) -> Significance:
    """From counts ``(groups, bins)``; groups without patients are left out. Raises BadInput with fewer than two, or all in one bin."""
    table = np.asarray(counts, np.float64)
    table = table[table.sum(axis=1) > 0]
    n = table.sum()
    together = table.sum(axis=0)
    correction = 1 - _ties(table) / (n**3 - n) if n > 1 else 0.0
    if len(table) < 2 or correction <= 0:
        raise BadInput("A rank test needs patients in two groups and in two bins at least.")
    ranks = np.cumsum(together) - together / 2 + 0.5
    sums = table @ ranks
    statistic = 12 / (n * (n + 1)) * float((sums**2 / table.sum(axis=1)).sum()) - 3 * (n + 1)
    return chi_squared(max(float(statistic / correction), 0.0), len(table) - 1)


def kruskal_wallis_range(counts: NDArray[np.integer] | Floats) -> tuple[float, float]:
    """Between which the statistic of all values lies that have these counts: each group's mean rank by itself as near to the middle as its bins
    let it be, and as far; exact values have no more ties than binned ones."""
    table = np.asarray(counts, np.float64)
    table = table[table.sum(axis=1) > 0]
    size, together, n = table.sum(axis=1), table.sum(axis=0), table.sum()
    ranks = np.cumsum(together) - together / 2 + 0.5
    far = np.abs(table @ ranks / size - (n + 1) / 2)
    half = (table * (together - table)).sum(axis=1) / (2 * size)
    least, most = (12 / (n * (n + 1)) * float(size @ one**2) for one in (np.maximum(far - half, 0.0), far + half))
    return least, min(most / (1 - _ties(table) / (n**3 - n)), float(n - 1))


def undecided(counts: NDArray[np.integer] | Floats) -> float:
    """The share of the pairs of patients of different groups that lie in one bin, whose order is not known; near 0 binning moves nothing."""
    table = np.asarray(counts, np.float64)
    groups = table.sum(axis=1)
    pairs = (groups.sum() ** 2 - (groups**2).sum()) / 2
    within = (table.sum(axis=0) ** 2 - (table**2).sum(axis=0)) / 2
    return float(within.sum() / pairs) if pairs > 0 else 0.0


def _ties(table: Floats) -> float:
    together = table.sum(axis=0)
    return float((together**3 - together).sum())


@final
@dataclass(frozen=True, kw_only=True)
class RankTest(AbstractComparison):
    """Mann-Whitney's test of two groups, Kruskal-Wallis' of more. ``bins``: of equal width between the outcome's `minimum` and `maximum`."""

    bins: Annotated[int, Field(ge=2, le=100_000)] = 1000
    continuity: bool = True

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if len(self.parsed.response) == 1 and not self.categories_of(self.outcome) and None in self._range:
            yield f"{self.outcome} needs `minimum` and `maximum` in `cohort.features`: between them lie the bins that all sites share"
        if self.parsed.response and self.outcome.function:
            yield f"{self.outcome}: ranks are those of the column itself, so leave the function out"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        if not disclosure.allows_exact_values(secure=secure):
            rows = self.read(frame)
            if has_few(rows, self._cell(rows), disclosure):
                yield f"fewer than {disclosure.minimum_cell} patients are in some bin: ask for fewer bins"

    @property
    def _range(self) -> tuple[float | None, float | None]:
        return next(((one.minimum, one.maximum) for one in self.features if one.name == self.outcome.name), (None, None))

    def _cell(self, rows: Frame) -> NDArray[np.int64]:
        """Each row's bin, group by group."""
        values, (low, high) = self.values(rows), self._range
        edges = np.linspace(low or 0.0, high or 0.0, self.bins + 1)
        if ((values < edges[0]) | (values > edges[-1])).any():
            raise BadData(say("{outcome} is outside of the study's range for some patients.", outcome=self.outcome))
        place = np.minimum(np.searchsorted(edges, values, side="right") - 1, self.bins - 1)
        return np.asarray(self.codes(rows) * self.bins + place)

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        counts = np.bincount(self._cell(rows), minlength=len(self.levels) * self.bins)
        return {"size": self.size(rows), "count": counts.reshape(-1, self.bins).astype(np.float64)}

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        return total, True

    def answer(self, name: str, values: Values) -> Sequence[Table]:
        counts = values["count"]
        shown = {**facts(values["size"]), "pairs_in_one_bin": number(undecided(counts))}
        if len(self.levels) == 2:
            found = mann_whitney(counts[::-1], continuity=self.continuity)
            title, test = "Mann-Whitney test", found.test
            shown |= {
                "superiority": found.superiority,
                "superiority_at_least": found.possible[0],
                "superiority_at_most": found.possible[1],
                "superior": f"{self.levels[1]} above {self.levels[0]}",
            }
        else:
            title, test = "Kruskal-Wallis test", kruskal_wallis(counts)
            least, most = kruskal_wallis_range(counts)
            shown |= {"statistic_at_least": least, "statistic_at_most": most}
            shown |= {"p_at_least": number(chi_squared(most, *test.freedom).p), "p_at_most": number(chi_squared(least, *test.freedom).p)}
        of_what = "superiority" if len(self.levels) == 2 else "statistic"
        note = f"Values of one bin are tied. At least and at most: what the {of_what} of the exact values can be."
        return [
            Table(
                analysis=name,
                method=self.name,
                title=title,
                columns=("term", *SIGNIFICANCE),
                rows=((str(self._group), *significance_cells(test)),),
                facts=shown,
                notes=(note,),
            )
        ]


EXAMPLE = RankTest(
    formula="x ~ g", features=(Feature(name="x", minimum=0, maximum=40), Feature(name="g", kind="category", categories=("a", "b", "c")))
)
