"""How columns go together: Pearson's correlations with intervals, and principal components.

``~ age + bmi + crp``: rows in which any of the columns is missing are left out. Two rounds: means, then products of the distances from them, so a
large mean costs no digits. Intervals are Fisher's. With ``components`` the principal components of the correlation matrix (of the covariance matrix
without ``scaled``): the share of the variance that each explains, and its loadings, of which the largest is positive.

Papers: R. A. Fisher, "On the 'probable error' of a coefficient of correlation deduced from a small sample", Metron 1 (1921); H. Hotelling,
"Analysis of a complex of statistical variables into principal components", J. Educational Psychology 24 (1933).

Leaves the site: ``size`` = rows and patients; ``sum`` = per column, in the second round of its distances from the common mean; ``products`` = per
pair of columns of these distances.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, final

import numpy as np
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.study import Feature
from aimer2.core.study.formula import ROLES
from aimer2.core.table import Cell, Table, number
from aimer2.statistics.comparison import Level, facts
from aimer2.statistics.design import INTERCEPT, Floats, numbers, of_function
from aimer2.statistics.significance import quantile, standardised
from aimer2.statistics.statistic import AbstractStatistic, Values


@final
@dataclass(frozen=True, kw_only=True)
class Correlation(AbstractStatistic):
    """``components``: how many principal components are told. ``scaled``: of the correlation matrix. ``level``: of the intervals."""

    components: Annotated[int, Field(ge=0, le=100)] = 0
    scaled: bool = True
    level: Level = 0.95

    def faults(self) -> Iterator[str]:
        formula = self.parsed
        if formula.response or len(formula.terms) < 2 or any(len(term) > 1 for term in formula.terms):
            yield "correlation is asked as ~ x + y, of two or more columns without interactions"
        yield from (f"correlation knows no {role}()" for role in ROLES if getattr(formula, role))
        categories = {feature.name for feature in self.features if feature.categories}
        yield from (f"{term[0]} is a category, and correlation wants numbers" for term in formula.terms if term[0].name in categories)
        if self.components > len(formula.terms):
            yield f"there are {len(formula.terms)} columns, so no more components"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        patients = self.read(frame).counted()
        if 0 < patients < disclosure.patients_per_parameter * len(self.parsed.terms):
            yield f"{len(self.parsed.terms)} columns are too many for the patients"

    def _columns(self, rows: Frame) -> Floats:
        return np.stack([numbers(term[0], rows) for term in self.parsed.terms], axis=1)

    def equations(self) -> Mapping[str, Sequence[str]]:
        """Each column's products with all others."""
        columns = [term[0] for term in self.parsed.terms]
        found: dict[str, list[str]] = {}
        for one in columns:
            others = [str(other) for other in columns if other != one]
            found.setdefault(one.name, []).extend(f"{label}{of_function(one)}" for label in (INTERCEPT, *others))
        return found

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        columns = self._columns(rows)
        if round_number == 1:
            return {"size": np.array([len(rows), rows.counted()], np.float64), "sum": columns.sum(axis=0)}
        distance = columns - values["mean"]
        return {"sum": distance.sum(axis=0), "products": distance.T @ distance}

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        if round_number == 1:
            return {"size": total["size"], "mean": total["sum"] / max(total["size"][0], 1)}, False
        shift = total["sum"] / max(values["size"][0], 1)
        return {**values, "mean": values["mean"] + shift, "products": total["products"] - np.outer(total["sum"], shift)}, True

    def told(self, values: Values) -> Values:
        return {name: values[name] for name in ("mean",) if name in values}

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        names = [str(term[0]) for term in self.parsed.terms]
        n, products = float(values["size"][0]), values["products"]
        spread = np.sqrt(np.maximum(np.diag(products), 0.0))
        fixed = [label for label, one in zip(names, spread, strict=True) if one == 0]
        if n < 4 or fixed:
            why = f"These columns do not vary: {', '.join(fixed)}." if fixed else "A correlation needs four patients at least."
            return [Table(analysis=name, method=self.name, title="No answer", columns=("term",), rows=(), facts=facts(values["size"]), notes=(why,))]
        correlations = np.clip(products / np.outer(spread, spread), -1, 1)
        rows = [(names[i], names[j], *self._line(float(correlations[i, j]), n)) for i in range(len(names)) for j in range(i + 1, len(names))]
        columns = ("column", "other", "estimate", "low", "high", "statistic", "freedom", "p")
        pairs = Table(analysis=name, method=self.name, title="Correlations", columns=columns, rows=tuple(rows), facts=facts(values["size"]))
        return [pairs, *self._components(name, names, correlations if self.scaled else products / (n - 1))]

    def _line(self, correlation: float, n: float) -> tuple[Cell, ...]:
        if abs(correlation) == 1:
            return correlation, None, None, None, n - 2, 0.0
        middle, half = math.atanh(correlation), quantile(self.level) / math.sqrt(n - 3)
        test = standardised(correlation * math.sqrt((n - 2) / (1 - correlation**2)), n - 2)
        return correlation, math.tanh(middle - half), math.tanh(middle + half), number(test.statistic), n - 2, number(test.p)

    def _components(self, name: str, names: Sequence[str], matrix: Floats) -> Iterator[Table]:
        if not self.components:
            return
        values, vectors = np.linalg.eigh(matrix)
        order = np.argsort(values)[::-1]
        values, vectors = np.maximum(values[order], 0.0), vectors[:, order]
        vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(values))])
        shares = values / values.sum()
        rows = [
            (place + 1, float(values[place]), float(shares[place]), float(shares[: place + 1].sum()), *(float(one) for one in vectors[:, place]))
            for place in range(self.components)
        ]
        columns = ("component", "variance", "share", "cumulative", *(f"loading_{label}" for label in names))
        yield Table(analysis=name, method=self.name, title="Principal components", columns=columns, rows=tuple(rows))


EXAMPLE = Correlation(formula="~ a + b + c", features=(Feature(name="a"), Feature(name="b"), Feature(name="c")), components=2)
