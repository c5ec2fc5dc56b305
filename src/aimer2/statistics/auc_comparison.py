"""Whether one model ranks patients better than another, on the same patients: DeLong's test of two areas under the curve.

``event ~ first + second``: two columns of scores between 0 and 1, the event 0 or 1 or a category of two. Two rounds. The first gathers the two
models' histograms (`aimer2.metrics.binned_scores`). The second tells every hospital the share of the other class below (or above) each bin, and
gathers sums of products of what its patients score there: the covariance of the two areas, without a joint histogram of the two models' scores,
which would be close to a list of patients.

Paper: E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, Biometrics 44 (1988), equations 5 to 8.

Leaves the site: ``size`` = rows and patients; ``histograms`` = of each score how many with the event and without are in each of 1024 bins;
``products`` = for those without the event and with it, how many, and of their two scores' places among the others the sums, squares and product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadData, BadInput
from aimer2.core.study import Feature
from aimer2.core.study.formula import ROLES
from aimer2.core.table import Cell, Table, number
from aimer2.metrics.binned_scores import EDGES, histogram
from aimer2.statistics.comparison import EFFECT, SIGNIFICANCE, Level, effect_cells, events, facts, has_few, significance_cells
from aimer2.statistics.design import numbers
from aimer2.statistics.significance import Effect, Significance, standardised, symmetric
from aimer2.statistics.statistic import AbstractStatistic, Values

Floats = NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class AreasCompared:
    """``difference`` is the first area minus the second; ``correlation`` that of the two areas' estimates."""

    areas: tuple[float, float]
    difference: Effect
    correlation: float
    test: Significance


def placements(histograms: NDArray[np.integer]) -> Floats:
    """``(2, 2, 1024)`` from the two models' histograms ``(2, 2, 1024)``: per model, for a negative the share of positives above its bin, for a
    positive the share of negatives below it, ties at half. Raises BadInput where a class is absent."""
    counts = np.asarray(histograms, np.float64)
    totals = counts[0].sum(axis=1)
    if (totals <= 0).any():
        raise BadInput("Areas under the curve need patients with the event and without.")
    negatives, positives = counts[:, 0], counts[:, 1]
    below = np.cumsum(negatives, axis=1) - negatives / 2
    above = totals[1] - np.cumsum(positives, axis=1) + positives / 2
    return np.stack([above / totals[1], below / totals[0]], axis=1)


def products(scores: Floats, positive: NDArray[np.bool_], placed: Floats) -> Floats:
    """What a hospital sends of its patients' scores ``(n, 2)``: per class (negatives, positives) their number, and of their two placements the sums,
    squares and the product: ``(2, 6)``."""
    bins = np.searchsorted(EDGES, scores, side="right")
    out = np.zeros((2, 6))
    for row, mine in enumerate((~positive, positive)):
        first, second = (placed[model, row, bins[mine, model]] for model in range(2))
        out[row] = (len(first), first.sum(), second.sum(), (first**2).sum(), (second**2).sum(), (first * second).sum())
    return out


def compare(sums: Floats, level: float = 0.95) -> AreasCompared:
    """Of the sums over hospitals. Raises BadInput with fewer than two patients of a class."""
    covariance = np.zeros((2, 2))
    for n, first, second, squares1, squares2, product in sums:
        if n < 2:
            raise BadInput("The comparison of two areas needs two patients at least with the event and two without.")
        centred = np.array([[squares1 - first**2 / n, product - first * second / n], [product - first * second / n, squares2 - second**2 / n]])
        covariance += centred / (n - 1) / n
    areas = float(sums[1, 1] / sums[1, 0]), float(sums[1, 2] / sums[1, 0])
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    error = math.sqrt(max(variance, 0.0))
    difference = areas[0] - areas[1]
    spread = math.sqrt(max(covariance[0, 0] * covariance[1, 1], 0.0))
    return AreasCompared(
        areas=areas,
        difference=symmetric(difference, error, level),
        correlation=float(covariance[0, 1] / spread) if spread > 0 else math.nan,
        test=standardised(difference / error) if error > 0 else _without_error(difference),
    )


def _without_error(difference: float) -> Significance:
    """Every patient's placement differs by the same: no chance is left where that is nothing, and nothing can be told where it is not."""
    return Significance(0.0, 1.0) if difference == 0 else Significance(math.nan, math.nan)


@final
@dataclass(frozen=True, kw_only=True)
class AucComparison(AbstractStatistic):
    """``level``: of the interval of the difference."""

    level: Level = 0.95

    def faults(self) -> Iterator[str]:
        formula = self.parsed
        if len(formula.response) != 1 or formula.survival or len(formula.terms) != 2 or any(len(term) != 1 for term in formula.terms):
            yield "auc_comparison is asked as event ~ first + second"
        elif any(self._categories(term[0].name) for term in formula.terms):
            yield "the scores are numbers between 0 and 1"
        elif len(self._categories(formula.response[0].name)) not in (0, 2):
            yield f"{formula.response[0]} must have two categories, the event being the second, or be 0 or 1"
        yield from (f"auc_comparison knows no {role}()" for role in ROLES if getattr(formula, role))

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        rows = self.read(frame)
        if has_few(rows, self._events(rows).astype(np.int64), disclosure):
            yield f"fewer than {disclosure.minimum_cell} patients have the event, or not"
        if not disclosure.allows_exact_values(secure=secure):
            yield "histograms of scores follow single patients' values, which this site tells only as its `disclosure.exact_values` says"

    def _categories(self, name: str) -> tuple[str, ...]:
        return next((tuple(feature.categories) for feature in self.features if feature.name == name), ())

    def _events(self, rows: Frame) -> NDArray[np.bool_]:
        event = self.parsed.response[0]
        return events(event, self._categories(event.name), rows)

    def _scores(self, rows: Frame) -> Floats:
        """``(n, 2)``. Raises BadData for a score outside of 0 to 1."""
        scores = np.stack([numbers(term[0], rows) for term in self.parsed.terms], axis=1)
        if ((scores < 0) | (scores > 1)).any():
            raise BadData("A score is not between 0 and 1 for some patients.")
        return scores

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        scores, positive = self._scores(rows), self._events(rows)
        if round_number == 2:
            return {"products": products(scores, positive, values["placements"])}
        counts = np.stack([histogram(scores[:, model], positive) for model in range(2)])
        return {"size": np.array([len(rows), rows.counted()], np.float64), "histograms": counts.astype(np.float64)}

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        if round_number == 2:
            return {"size": values["size"], **total}, True
        if (total["histograms"][0].sum(axis=1) < 1).any():
            return {"size": total["size"], "products": np.zeros((2, 6))}, True
        return {"size": total["size"], "placements": placements(total["histograms"])}, False

    def told(self, values: Values) -> Values:
        return {name: values[name] for name in ("placements",) if name in values}

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        shown: dict[str, Cell] = {
            **facts(values["size"]),
            "without_event": round(values["products"][0, 0]),
            "with_event": round(values["products"][1, 0]),
        }
        try:
            found = compare(values["products"], self.level)
        except BadInput as error:
            return [Table(analysis=name, method=self.name, title="No answer", columns=("term",), rows=(), facts=shown, notes=(error.sentence,))]
        first, second = (str(term[0]) for term in self.parsed.terms)
        empty: tuple[Cell, ...] = (None, None, None)
        rows: tuple[tuple[Cell, ...], ...] = (
            (first, found.areas[0], *empty, *empty),
            (second, found.areas[1], *empty, *empty),
            (f"{first} − {second}", *effect_cells(found.difference), *significance_cells(found.test)),
        )
        return [
            Table(
                analysis=name,
                method=self.name,
                title="Areas under the curve",
                columns=("term", *EFFECT, *SIGNIFICANCE),
                rows=rows,
                facts={**shown, "correlation": number(found.correlation), "level": self.level},
                notes=("Scores are rounded to bins 0.0235 wide in the logit; those of one bin are tied.",),
            )
        ]


EXAMPLE = AucComparison(
    formula="y ~ a + b", features=(Feature(name="a", minimum=0, maximum=1), Feature(name="b", minimum=0, maximum=1), Feature(name="y"))
)
