"""Whether the means of several groups differ, with hospitals as a factor or without: analysis of variance.

``outcome ~ group``. With hospitals as a factor the model is outcome ~ group + hospital, fitted by absorbing the hospitals: each sends its counts per
group and sums of the distances from its *own* mean, and the sums over hospitals are the normal equations of the groups given the hospitals
(H. Scheffé, "The Analysis of Variance" (1959), section 4.4; type II sums of squares). Without, groups are compared over all hospitals as if they
were one; there also Welch's test, that does not take the variances as equal (B. L. Welch, "On the comparison of several mean values: an alternative
approach", Biometrika 38 (1951)).

Leaves the site: ``size`` = rows and patients; ``count`` = per group how many; ``sum`` = per group of the outcome, in the second round of its
distances from the common mean; ``squares`` = per group of these distances; ``products`` = diag(n) − n nᵀ / Σn of the site's counts n per group;
``within`` = per group the sum of distances from the site's mean; ``spread`` = the sum of squares of all these; ``sites`` = 1 of a site with
patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from aimer2.core.dataset import Frame
from aimer2.core.errors import BadInput
from aimer2.core.study import Feature
from aimer2.core.table import Cell, Table, number
from aimer2.statistics.comparison import SIGNIFICANCE, AbstractComparison, facts, significance_cells
from aimer2.statistics.significance import Significance, variance_ratio
from aimer2.statistics.statistic import Values

Floats = NDArray[np.float64]

RELATIVE_RANK = 1e-10


@final
class Cells(NamedTuple):
    """Per group ``(G,)``: patients, sum of the distances from ``centre``, sum of their squares."""

    n: Floats
    sums: Floats
    squares: Floats


@final
class Within(NamedTuple):
    """Within hospitals, summed over them, of those with patients at all: ``products`` (G, G) = diag(n) − n nᵀ/n., ``sums`` (G,) of distances from
    the hospital's mean per group, ``squares`` of all these distances, and how many hospitals."""

    products: Floats
    sums: Floats
    squares: float
    hospitals: float


@final
@dataclass(frozen=True, slots=True)
class Line:
    """One line of an analysis-of-variance table; ``test`` None for the residual."""

    term: str
    freedom: float
    squares: float
    test: Significance | None


def within(cells: Cells) -> Within:
    """What one hospital's cells come to."""
    total = cells.n.sum()
    if total <= 0:
        return Within(np.zeros((len(cells.n), len(cells.n))), np.zeros(len(cells.n)), 0.0, 0.0)
    mean = cells.sums.sum() / total
    squares = float(cells.squares.sum() - mean * cells.sums.sum())
    return Within(np.diag(cells.n) - np.outer(cells.n, cells.n) / total, cells.sums - cells.n * mean, squares, 1.0)


def one_way(cells: Cells) -> tuple[Line, Line]:
    """Groups over all hospitals together, without hospitals as a factor. Raises BadInput without two groups and more patients than groups."""
    there = cells.n > 0
    n, groups = float(cells.n.sum()), int(there.sum())
    residual_freedom = n - groups
    if groups < 2 or residual_freedom < 1:
        raise BadInput("An analysis of variance needs two groups with patients, and more patients than groups.")
    means = cells.sums[there] / cells.n[there]
    between = float(cells.n[there] @ (means - cells.sums.sum() / n) ** 2)
    residual = float((cells.squares[there] - cells.sums[there] * means).sum())
    return _lines("group", between, groups - 1, residual, residual_freedom)


def welch(cells: Cells) -> Significance:
    """The one-way test without equal variances. Raises BadInput where a group has fewer than two patients or does not vary."""
    there = cells.n > 0
    n, sums = cells.n[there], cells.sums[there]
    means = sums / n
    variances = (cells.squares[there] - sums * means) / np.maximum(n - 1, 1)
    if len(n) < 2 or (n < 2).any() or (variances <= 0).any():
        raise BadInput("Welch's analysis of variance needs two patients at least, whose outcomes differ, in every one of two or more groups.")
    weights = n / variances
    shares = weights / weights.sum()
    k = len(n)
    spread = float(((1 - shares) ** 2 / (n - 1)).sum())
    between = float(weights @ (means - shares @ means) ** 2) / (k - 1)
    return variance_ratio(between / (1 + 2 * (k - 2) / (k**2 - 1) * spread), k - 1, (k**2 - 1) / (3 * spread))


def with_hospitals(cells: Cells, sums: Within) -> tuple[Line, Line, Line]:
    """Groups given the hospitals, hospitals given the groups, residual. ``cells`` are those of all hospitals together.

    Raises BadInput where no patient is left for the residual, or groups cannot be told from hospitals (each at hospitals of its own).
    """
    values, vectors = np.linalg.eigh(sums.products)
    kept = values > RELATIVE_RANK * max(float(values.max()), 1.0)
    rank = int(kept.sum())
    if not rank:
        raise BadInput("No hospital has patients of two groups, so groups cannot be compared within hospitals. Leave the factor hospital out.")
    explained = float((((vectors[:, kept].T @ sums.sums) ** 2) / values[kept]).sum())
    residual = sums.squares - explained
    there = cells.n > 0
    groups_alone = float((cells.squares[there] - cells.sums[there] ** 2 / cells.n[there]).sum())
    residual_freedom = float(cells.n.sum()) - sums.hospitals - rank
    if residual_freedom < 1:
        raise BadInput("An analysis of variance needs more patients than groups and hospitals together.")
    hospitals_freedom = float(cells.n.sum()) - int(there.sum()) - residual_freedom
    groups, last = _lines("group", explained, rank, residual, residual_freedom)
    hospitals, _ = _lines("site", groups_alone - residual, hospitals_freedom, residual, residual_freedom)
    return groups, hospitals, last


def _lines(term: str, squares: float, freedom: float, residual: float, residual_freedom: float) -> tuple[Line, Line]:
    if residual <= 0:
        raise BadInput("The outcome does not vary within the groups, so an analysis of variance says nothing.")
    if freedom <= 0:
        return Line(term, 0.0, 0.0, None), Line("residual", residual_freedom, residual, None)
    test = variance_ratio(max(squares, 0.0) / freedom / (residual / residual_freedom), freedom, residual_freedom)
    return Line(term, freedom, max(squares, 0.0), test), Line("residual", residual_freedom, residual, None)


@final
@dataclass(frozen=True, kw_only=True)
class Anova(AbstractComparison):
    """``sites``: a factor of the model, or pooled as if there were one hospital."""

    sites: Literal["factor", "pooled"] = "factor"
    of_sites: ClassVar[frozenset[str]] = frozenset({"products", "within", "spread", "sites"})

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        outcome = self.values(rows)
        if round_number == 1:
            return {"size": self.size(rows), "count": self.per_group(rows, np.ones(len(rows))), "sum": self.per_group(rows, outcome)}
        distance = outcome - values["mean"]
        cells = Cells(self.per_group(rows, np.ones(len(rows))), self.per_group(rows, distance), self.per_group(rows, distance**2))
        made = {"sum": cells.sums, "squares": cells.squares}
        if self.sites == "factor":
            own = within(cells)
            made |= {"products": own.products, "within": own.sums, "spread": np.array(own.squares), "sites": np.array(own.hospitals)}
        return made

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        if round_number > 1:
            return {**values, **total}, True
        mean = np.array(total["sum"].sum() / max(total["count"].sum(), 1))
        return {"size": total["size"], "count": total["count"], "mean": mean}, False

    def told(self, values: Values) -> Values:
        return {name: values[name] for name in ("mean",) if name in values}

    def answer(self, name: str, values: Values) -> Sequence[Table]:
        cells = Cells(values["count"], values["sum"], values["squares"])
        shift = cells.sums / np.maximum(cells.n, 1)
        deviation = np.sqrt(np.maximum(cells.squares - cells.sums * shift, 0.0) / np.maximum(cells.n - 1, 1))
        means: list[tuple[Cell, ...]] = [
            (level, round(n), number(values["mean"] + mean) if n else None, number(spread) if n > 1 else None)
            for level, n, mean, spread in zip(self.levels, cells.n, shift, deviation, strict=True)
        ]
        columns = (str(self._group), "count", "mean", "standard_deviation")
        return [Table(analysis=name, method=self.name, title="Groups", columns=columns, rows=tuple(means)), self._variance(name, cells, values)]

    def _variance(self, name: str, cells: Cells, values: Values) -> Table:
        if self.sites == "factor":
            sums = Within(values["products"], values["within"], float(values["spread"]), float(values["sites"]))
            lines: tuple[Line, ...] = with_hospitals(cells, sums)
        else:
            lines = one_way(cells)
        empty: tuple[Cell, ...] = (None, None, None)
        rows = [
            (
                str(self._group) if line.term == "group" else line.term,
                line.freedom,
                line.squares,
                *(significance_cells(line.test) if line.test else empty),
            )
            for line in lines
        ]
        if self.sites == "pooled":
            rows.append(("Welch's test", None, None, *significance_cells(welch(cells))))
        columns = ("term", "degrees", "sum_of_squares", *SIGNIFICANCE)
        return Table(analysis=name, method=self.name, title="Analysis of variance", columns=columns, rows=tuple(rows), facts=facts(values["size"]))


EXAMPLE = Anova(formula="y ~ g", features=(Feature(name="y"), Feature(name="g", kind="category", categories=("a", "b", "c"))))
