"""Table 1 of a report: what the groups were like at the start, with standardised differences.

``~ age + bmi + sex + strata(arm)``: of numbers mean and standard deviation, of categories how many and the share, in each group and in all. The
standardised difference is of the first group from each other: of means over the root of the mean of the two variances, of a category √(d'S⁻¹d)
over the shares of its levels but one (D. Yang, J. E. Dalton, "A unified approach to measuring the effect size between two groups using SAS", SAS
Global Forum 2012). There are no p-values: whether randomised groups differ is known, and otherwise not what matters (P. C. Austin, "Balance
diagnostics …", Statistics in Medicine 28 (2009)). Missing values are left out of the column they are missing in, and counted.

Leaves the site: ``size`` = rows and patients; ``patients`` = per group how many; ``count`` = per group and number how many values; ``sum`` = of
these, in the second round of their distances from the common mean; ``squares`` = of these distances; ``levels`` = per group and category how many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.study import Feature
from aimer2.core.study.formula import ROLES, Variable
from aimer2.core.table import Cell, Table, number
from aimer2.statistics.comparison import facts
from aimer2.statistics.design import Floats, groups, numbers
from aimer2.statistics.statistic import AbstractStatistic, Cohort, Values

ALL = "all"


@final
@dataclass(frozen=True, kw_only=True)
class TableOne(AbstractStatistic):
    """It has no options."""

    def faults(self) -> Iterator[str]:
        formula = self.parsed
        if formula.response:
            yield "table_one is asked as ~ age + sex + strata(arm), without a response"
        yield from (f"table_one knows no {role}()" for role in ROLES if role != "strata" and getattr(formula, role))
        if not formula.terms or any(len(term) > 1 for term in formula.terms):
            yield "table_one takes columns joined by '+', and one at least"
        if len(formula.strata) != 1 or len(self._levels_of(formula.strata[0].name)) < 2:
            yield "table_one needs strata(…) of one category of two or more: the groups"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        rows = self.read(frame)
        codes, _ = groups(self.parsed.strata, self.features, rows)
        for code, group in enumerate(self._groups):
            inside = rows.at(codes == code)
            if disclosure.is_small(inside.counted()):
                yield f"fewer than {disclosure.minimum_cell} patients have {self.parsed.strata[0]} = {group}"
            for variable in self._numbers:
                if disclosure.is_small(inside.counted(~np.isnan(numbers(variable, inside)))):
                    yield f"fewer than {disclosure.minimum_cell} patients with {self.parsed.strata[0]} = {group} have {variable}"
            for variable in self._categories:
                for level, label in enumerate(self._levels_of(variable.name)):
                    if disclosure.is_small(inside.counted(inside.columns[variable.name] == level)):
                        yield f"fewer than {disclosure.minimum_cell} patients with {self.parsed.strata[0]} = {group} have {variable} = {label}"

    def cohorts(self, frame: Frame) -> Iterator[Cohort]:
        return self.columns_apart(frame)

    def read(self, frame: Frame) -> Frame:
        """Missing values are counted, so only a missing group leaves a row out."""
        return frame.complete([variable.name for variable in self.parsed.strata])

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        codes, _ = groups(self.parsed.strata, self.features, rows)
        inside = [rows.at(codes == code) for code in range(len(self._groups))]
        shape = (len(inside), len(self._numbers))
        columns = [[numbers(variable, one) for variable in self._numbers] for one in inside]
        if round_number == 1:
            made = {
                "size": np.array([len(rows), rows.counted()], np.float64),
                "patients": np.array([one.counted() for one in inside], np.float64),
                "count": np.array([[(~np.isnan(column)).sum() for column in one] for one in columns], np.float64).reshape(shape),
                "sum": np.array([[np.nansum(column) for column in one] for one in columns], np.float64).reshape(shape),
            }
            return made | {"levels": np.array([self._counted(one) for one in inside], np.float64).reshape(len(inside), -1)}
        distances = [[column - mean for column, mean in zip(one, values["mean"], strict=True)] for one in columns]
        return {
            "sum": np.array([[np.nansum(one) for one in part] for part in distances], np.float64).reshape(shape),
            "squares": np.array([[np.nansum(one**2) for one in part] for part in distances], np.float64).reshape(shape),
        }

    def _counted(self, rows: Frame) -> list[int]:
        """Of each category how many have each level, and of how many it is missing."""
        found = []
        for variable in self._categories:
            column = rows.columns[variable.name]
            found += [int((column == level).sum()) for level in range(len(self._levels_of(variable.name)))] + [int(np.isnan(column).sum())]
        return found

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        if round_number == 1:
            kept = {name: total[name] for name in ("size", "patients", "count", "levels")}
            return kept | {"mean": total["sum"].sum(axis=0) / np.maximum(total["count"].sum(axis=0), 1)}, not self._numbers
        return {**values, **total}, True

    def told(self, values: Values) -> Values:
        return {name: values[name] for name in ("mean",) if name in values}

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        counted = dict(zip([*self._groups, ALL], [*values["patients"], values["size"][1]], strict=True))
        against = tuple(f"difference_{group}" for group in self._groups[1:])
        rows: list[tuple[Cell, ...]] = []
        places = {variable: place for place, variable in enumerate(self._numbers)}
        levels = iter(np.split(values["levels"], np.cumsum([len(self._levels_of(one.name)) + 1 for one in self._categories])[:-1], axis=1))
        for (variable,) in self.parsed.terms:
            rows += self._of_number(variable, places[variable], values) if variable in places else self._of_category(variable, next(levels))
        shown = {**facts(values["size"]), **{f"patients: {group}": round(float(count)) for group, count in counted.items()}}
        columns = ("column", "category", *(f"{group}: {part}" for group in (*self._groups, ALL) for part in ("value", "spread")), "missing", *against)
        notes = (
            "Of numbers: mean and standard deviation. Of categories: how many, and the share of those not missing.",
            f"Differences are standardised, of {self._groups[0]} from each other group.",
        )
        return [Table(analysis=name, method=self.name, title="Table 1", columns=columns, rows=tuple(rows), facts=shown, notes=notes)]

    def _of_number(self, variable: Variable, place: int, values: Values) -> list[tuple[Cell, ...]]:
        count, sums, squares = (np.append(values[part][:, place], values[part][:, place].sum()) for part in ("count", "sum", "squares"))
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.where(count > 0, values["mean"][place] + sums / np.maximum(count, 1), np.nan)
            variances = np.where(count > 1, np.maximum(squares - sums**2 / np.maximum(count, 1), 0) / np.maximum(count - 1, 1), np.nan)
            differences = (means[0] - means[1:-1]) / np.sqrt((variances[0] + variances[1:-1]) / 2)
        cells = [number(one) for pair in zip(means, np.sqrt(variances), strict=True) for one in pair]
        missing = round(float(values["size"][0] - count[-1]))
        return [(str(variable), "", *cells, missing, *(number(one) for one in differences))]

    def _of_category(self, variable: Variable, counts: Floats) -> list[tuple[Cell, ...]]:
        missing = round(float(counts[:, -1].sum()))
        table = np.vstack([counts[:, :-1], counts[:, :-1].sum(axis=0)])
        shares = np.divide(table, table.sum(axis=1, keepdims=True), out=np.full(table.shape, np.nan), where=table.sum(axis=1, keepdims=True) > 0)
        differences = [number(standardised_difference(shares[0], shares[other])) for other in range(1, len(self._groups))]
        lines: list[tuple[Cell, ...]] = []
        for level, label in enumerate(self._levels_of(variable.name)):
            cells = [one for n, share in zip(table[:, level], shares[:, level], strict=True) for one in (round(float(n)), number(share))]
            blank: list[Cell] = [None] * (1 + len(differences))
            lines.append((str(variable), label, *cells, *([missing, *differences] if level == 0 else blank)))
        return lines

    def _levels_of(self, name: str) -> tuple[str, ...]:
        return next((tuple(feature.categories) for feature in self.features if feature.name == name), ())

    @property
    def _groups(self) -> tuple[str, ...]:
        return self._levels_of(self.parsed.strata[0].name)

    @property
    def _numbers(self) -> tuple[Variable, ...]:
        return tuple(term[0] for term in self.parsed.terms if not self._levels_of(term[0].name))

    @property
    def _categories(self) -> tuple[Variable, ...]:
        return tuple(term[0] for term in self.parsed.terms if self._levels_of(term[0].name))


def standardised_difference(first: Floats, second: Floats) -> float:
    """Of the shares of a category's levels in two groups; 0 where they are alike, infinite where one level decides the group."""
    if np.isnan(first).any() or np.isnan(second).any():
        return math.nan
    held = (first + second) > 0
    first, second = first[held][1:], second[held][1:]
    distance = first - second
    if not np.any(distance):
        return 0.0
    covariance = sum(np.diag(share) - np.outer(share, share) for share in (first, second)) / 2
    values, vectors = np.linalg.eigh(covariance)
    if values[0] <= 1e-12:
        return math.inf
    return float(np.sqrt((((vectors.T @ distance) ** 2) / values).sum()))


EXAMPLE = TableOne(
    formula="~ x + s + strata(g)",
    features=(
        Feature(name="x"),
        Feature(name="s", kind="category", categories=("f", "m")),
        Feature(name="g", kind="category", categories=("a", "b")),
    ),
)
