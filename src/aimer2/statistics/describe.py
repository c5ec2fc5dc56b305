"""Describe columns: how many, missing, mean, variance, skewness, kurtosis, quantiles and histograms; of categories, how many of each.

``~ age + bmi + sex + strata(arm)`` describes each column on the right, apart for each group of the strata. Moments are taken about the common
mean, which the first round finds (Chan, Golub, LeVeque 1983, equation 1.7, and its like for the third and fourth), so a large mean costs no
digits. Skewness is g1 = m3 / m2^1.5 and kurtosis g2 = m4 / m2² − 3 with m_k = Σd^k / n. Quantiles are those of type 7 (Hyndman, Fan 1996):
between two order statistics, each found by counting how many values lie at or below fifteen points of an interval that shrinks by sixteen in
every round, until it is ``tolerance`` of its first width. It starts as m ± √(m2·(n − 1)), outside which no value can lie (Samuelson 1968).

Leaves the site: ``size`` = rows and patients; ``count`` = per group and column how many values; ``missing`` = how many are missing;
``sum`` = of the values, and from the second round of their distances from the common mean and of these to the powers 2, 3 and 4; ``levels``
= per category how many; ``bins`` = per bin of a histogram how many; ``below`` = for quantiles, how many values lie at or below fifteen points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, final

import numpy as np
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadUpdate
from aimer2.core.study import Feature
from aimer2.core.study.formula import Variable
from aimer2.core.table import Cell, Table, number
from aimer2.statistics.design import Floats, groups, numbers
from aimer2.statistics.statistic import AbstractStatistic, Cohort, Values

_POINTS = 15
"""Points at which values are counted in a round of the search for an order statistic."""

Share = Annotated[float, Field(ge=0, le=1)]


@final
@dataclass(frozen=True, kw_only=True)
class Describe(AbstractStatistic):
    """``quantiles``: which, as shares; 0 and 1 are the extremes. ``bins``: of a histogram of each number that the study gives a range."""

    quantiles: tuple[Share, ...] = (0.25, 0.5, 0.75)
    bins: Annotated[int, Field(ge=0, le=200)] = 0
    tolerance: Annotated[float, Field(ge=1e-12, le=0.1)] = 1e-9

    def faults(self) -> Iterator[str]:
        formula = self.parsed
        if formula.response:
            yield "describe has no response: begin the formula with '~'"
        if any(len(term) > 1 for term in formula.terms):
            yield "describe takes columns, not interactions: join them with '+'"
        if not formula.terms:
            yield "describe needs a column to describe"
        if formula.offset or formula.weights or formula.cluster:
            yield "describe knows neither offset() nor weights() nor cluster()"
        if self.bins and any(low is None or high is None for low, high in self._ranges):
            yield "a histogram needs `minimum` and `maximum` of every number in `cohort.features`, so that its bins tell of nobody"
        kinds = {feature.name: feature.kind for feature in self.features}
        yield from (f"strata({one}) is no category" for one in formula.strata if kinds.get(one.name) != "category")

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        asked = self._numbers and self.quantiles
        if asked and not disclosure.allows_exact_values(secure=secure):
            yield "quantiles follow single patients' values, which this site tells only as its `disclosure.exact_values` says"
        if asked and not disclosure.extremes and {0.0, 1.0} & set(self.quantiles):
            yield "minimum and maximum are single patients' values, which this site does not tell"
        rows = self.read(frame)
        group, named = groups(self.parsed.strata, self.features, rows)
        for number_of_group, name in enumerate(named):
            inside = rows.at(group == number_of_group)
            where = f" of {name}" if name else ""
            if disclosure.is_small(inside.counted()):
                yield f"fewer than {disclosure.minimum_cell} patients are{where}"
            for feature in self._categories:
                for code, level in enumerate(feature.categories):
                    if disclosure.is_small(inside.counted(inside.columns[feature.name] == code)):
                        yield f"fewer than {disclosure.minimum_cell} patients{where} have {feature.name} = {level}"
            for variable, edges in zip(self._numbers, self._edges() if self.bins else (), strict=False):
                place = _bin(numbers(variable, inside), edges)
                if any(disclosure.is_small(inside.counted(place == one)) for one in range(self.bins)):
                    yield f"fewer than {disclosure.minimum_cell} patients{where} are in a bin of {variable}"

    def cohorts(self, frame: Frame) -> Iterator[Cohort]:
        return self.columns_apart(frame)

    def read(self, frame: Frame) -> Frame:
        """Missing values are counted, so only a missing group leaves a row out."""
        return frame.complete([variable.name for variable in self.parsed.strata])

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        group, named = groups(self.parsed.strata, self.features, rows)
        inside = [rows.at(group == code) for code in range(len(named))]
        data = [[numbers(variable, one) for variable in self._numbers] for one in inside]
        if round_number == 1:
            return self._first(rows, inside, data)
        if round_number == 2:
            powers = [[_powers(column, mean) for column, mean in zip(*pair, strict=True)] for pair in zip(data, values["mean"], strict=True)]
            return {"sum": np.array(powers).reshape(len(named), len(self._numbers), 4)}
        points = _points(values["low"], values["high"])
        below = [[_at_or_below(*pair) for pair in zip(*one, strict=True)] for one in zip(data, points, strict=True)]
        return {"below": np.array(below).reshape(points.shape)}

    def _first(self, rows: Frame, inside: Sequence[Frame], data: Sequence[Sequence[Floats]]) -> Values:
        shape = (len(inside), len(self._numbers))
        missing = [[np.isnan(column).sum() for column in one] for one in data]
        made = {
            "size": np.array([len(rows), rows.counted()], np.float64),
            "count": np.array([[len(column) for column in one] for one in data], np.float64).reshape(shape),
            "missing": np.array(missing, np.float64).reshape(shape),
            "sum": np.array([[np.nansum(column) for column in one] for one in data], np.float64).reshape(shape),
        }
        made["count"] -= made["missing"]
        if self._categories:
            made["levels"] = np.concatenate([_levels(feature, inside) for feature in self._categories], axis=1)
        if self.bins:
            found = [[np.bincount(_bin(*pair), minlength=self.bins)[: self.bins] for pair in zip(one, self._edges(), strict=True)] for one in data]
            made["bins"] = np.array(found, np.float64).reshape(*shape, self.bins)
        return made

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        if round_number == 1:
            if (total["count"] < 0).any():
                raise BadUpdate("The sites' counts are negative.")
            kept = {name: total[name] for name in ("size", "count", "missing", "levels", "bins") if name in total}
            return kept | {"mean": total["sum"] / np.maximum(total["count"], 1)}, not self._numbers
        if round_number == 2:
            moved = self._moments(values, total["sum"])
            return moved, not self.quantiles or not (moved["high"] > moved["low"]).any()
        narrowed = self._narrowed(values, total["below"])
        width = narrowed["high"] - narrowed["low"]
        return narrowed, bool((width <= self.tolerance * narrowed["width"]).all())

    def _moments(self, values: Values, sums: Floats) -> Values:
        count = np.maximum(values["count"], 1)
        shift, *raw = np.moveaxis(sums / count[..., None], -1, 0)
        second = np.maximum(raw[0] - shift**2, 0.0)
        third = raw[1] - 3 * shift * raw[0] + 2 * shift**3
        fourth = raw[2] - 4 * shift * raw[1] + 6 * shift**2 * raw[0] - 3 * shift**4
        mean = values["mean"] + shift
        half = np.sqrt(second * np.maximum(count - 1, 0)) * (1 + 1e-9)
        shape = (*mean.shape, len(self.quantiles), 2)
        return {
            **values,
            "mean": mean,
            "moments": np.stack([second, third, fourth], axis=-1),
            "low": np.broadcast_to((mean - half)[..., None, None], shape).copy(),
            "high": np.broadcast_to((mean + half)[..., None, None], shape).copy(),
            "width": np.broadcast_to((2 * half)[..., None, None], shape).copy(),
        }

    def _narrowed(self, values: Values, below: Floats) -> Values:
        """Each interval to the sixteenth of it that holds its order statistic."""
        points = _points(values["low"], values["high"])
        ends = np.concatenate([values["low"][..., None], points, values["high"][..., None]], axis=-1)
        rank, _ = self._ranks(values["count"])
        place = (below < rank[..., None] + 1).sum(axis=-1)
        low, high = (np.take_along_axis(ends, (place + step)[..., None], -1)[..., 0] for step in (0, 1))
        return {**values, "low": low, "high": high}

    def _ranks(self, count: Floats) -> tuple[Floats, Floats]:
        """Of each quantile the two order statistics between which it lies ``(…, 2)``, from 0, and how far it is on the way."""
        place = np.maximum(count - 1, 0)[..., None] * np.array(self.quantiles)
        lower = np.floor(place)
        return np.stack([lower, np.ceil(place)], axis=-1), place - lower

    def told(self, values: Values) -> Values:
        return {name: values[name] for name in ("mean", "low", "high") if name in values}

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        _, named = groups(self.parsed.strata, self.features, Frame.empty(self.parsed.columns))
        rows, patients = (int(value) for value in values["size"])
        quantiles = tuple(f"q{100 * share:g}" for share in self.quantiles)
        figures = ("count", "missing", "mean", "standard_deviation", "variance", "skewness", "kurtosis", *quantiles)
        lines = (self._line(values, place, code, group) for place in range(len(self._numbers)) for code, group in enumerate(named))
        parts: list[tuple[str, tuple[str, ...], Iterator[tuple[Cell, ...]]]] = [
            ("Numbers", figures, iter(lines)),
            ("Categories", ("category", "count", "share"), self._level_lines(values, named)),
            ("Histograms", ("from", "to", "count"), self._bin_lines(values, named) if self.bins else iter(())),
        ]
        facts = {"rows": rows, "patients": patients}
        return [
            Table(analysis=name, method=self.name, title=title, columns=("column", "group", *columns), rows=found, facts=facts)
            for title, columns, part in parts
            if (found := tuple(part))
        ]

    def _line(self, values: Values, place: int, code: int, group: str) -> tuple[Cell, ...]:
        count = int(values["count"][code, place])
        head: tuple[Cell, ...] = (str(self._numbers[place]), group, count, int(values["missing"][code, place]))
        if count == 0:
            return head + (None,) * (5 + len(self.quantiles))
        second, third, fourth = values["moments"][code, place]
        variance = second * count / (count - 1) if count > 1 else float("nan")
        shape = (third / second**1.5, fourth / second**2 - 3) if second > 0 else (float("nan"), float("nan"))
        _, between = self._ranks(values["count"])
        lower, upper = np.moveaxis((values["low"][code, place] + values["high"][code, place]) / 2, -1, 0)
        quantiles = lower + between[code, place] * (upper - lower)
        figures = (values["mean"][code, place], np.sqrt(variance), variance, *shape, *quantiles)
        return head + tuple(number(float(figure)) for figure in figures)

    def _level_lines(self, values: Values, named: Sequence[str]) -> Iterator[tuple[Cell, ...]]:
        first = 0
        for feature in self._categories:
            counts = values["levels"][:, first : first + len(feature.categories)]
            first += len(feature.categories) + 1
            missing = values["levels"][:, first - 1]
            for code, group in enumerate(named):
                whole = counts[code].sum()
                for level, count in zip(feature.categories, counts[code], strict=True):
                    yield feature.name, group, level, int(count), number(count / whole) if whole else None
                if missing[code]:
                    yield feature.name, group, "(missing)", int(missing[code]), None

    def _bin_lines(self, values: Values, named: Sequence[str]) -> Iterator[tuple[Cell, ...]]:
        for place, (variable, edges) in enumerate(zip(self._numbers, self._edges(), strict=True)):
            for code, group in enumerate(named):
                for one, count in enumerate(values["bins"][code, place]):
                    yield str(variable), group, float(edges[one]), float(edges[one + 1]), int(count)

    @property
    def _described(self) -> tuple[Variable, ...]:
        return tuple(term[0] for term in self.parsed.terms)

    @property
    def _numbers(self) -> tuple[Variable, ...]:
        names = {feature.name for feature in self._categories}
        return tuple(variable for variable in self._described if variable.name not in names)

    @property
    def _categories(self) -> tuple[Feature, ...]:
        asked = {variable.name for variable in self._described}
        return tuple(feature for feature in self.features if feature.kind == "category" and feature.name in asked)

    @property
    def _ranges(self) -> list[tuple[float | None, float | None]]:
        ranges = {feature.name: (feature.minimum, feature.maximum) for feature in self.features}
        return [ranges[variable.name] for variable in self._numbers]

    def _edges(self) -> list[Floats]:
        return [np.linspace(low or 0.0, high or 0.0, self.bins + 1) for low, high in self._ranges]


def _powers(column: Floats, mean: float) -> Floats:
    distance = column[~np.isnan(column)] - mean
    return np.array([(distance**power).sum() for power in (1, 2, 3, 4)])


def _points(low: Floats, high: Floats) -> Floats:
    """``(…, 15)`` equally spaced inside each interval."""
    return low[..., None] + (high - low)[..., None] * (np.arange(1, _POINTS + 1) / (_POINTS + 1))


def _at_or_below(column: Floats, points: Floats) -> Floats:
    ordered = np.sort(column[~np.isnan(column)])
    found: Floats = np.searchsorted(ordered, points, side="right").astype(np.float64)
    return found


def _levels(feature: Feature, inside: Sequence[Frame]) -> Floats:
    """``(groups, levels + 1)``, the last those that are missing."""
    codes = [frame.columns[feature.name] for frame in inside]
    return np.array([[*((code == level).sum() for level in range(len(feature.categories))), np.isnan(code).sum()] for code in codes], np.float64)


def _bin(column: Floats, edges: Floats) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Each value's bin; one more than there are for a missing one."""
    place = np.clip(np.searchsorted(edges, column, side="right") - 1, 0, len(edges) - 2)
    return np.where(np.isnan(column), len(edges) - 1, place).astype(np.int64)


EXAMPLE = Describe(
    formula="~ x1 + g",
    features=(Feature(name="x1"), Feature(name="g", kind="category", categories=("a", "b"))),
)
