"""Whether data are fit for the question: missing values, broken rules, repeated rows, and hospitals whose distributions differ from all others'.

``~ age + bmi + sex + entry + exit`` names the columns; ``rules`` say what must hold in each row, as ``"12 <= bmi <= 70"`` or ``"entry <= exit"``
(of columns and numbers). It is a gate: a hospital whose own data are beyond a limit says so before anything is computed, and takes no part in the
study; with ``gate = false`` it only reports. The data contract (units, categories, `minimum` and `maximum`) comes before it.

How hospitals differ: of a number the share of its variance that lies between hospitals, and Kolmogorov's distance of each hospital's distribution,
in bins of its range, from that of all; of a category half the sum of absolute differences of shares (total variation). Each hospital only says in
which of six classes its distance lies, and whether beyond the limit: so the sums say of how many hospitals, not of which.

Leaves the site: ``size`` = rows and patients; ``sites`` = 1 where there is any row; ``missing`` = per column how many values; ``sum`` = per number
the sum of values; ``bins`` = per number with a range how many rows in each bin; ``levels`` = per category how many rows; ``broken`` = per rule in how
many rows it can be judged, and in how many it does not hold; ``repeated`` = rows that repeat another of the patient, patients with a row that is
another patient's in every column; ``between`` = per number the squared distance of the site's mean from that of all times its rows, and the sum of
squared distances of its values; ``distances`` = per column a 1 in the class of the site's distance, and a 1 where it is beyond the limit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Annotated, ClassVar, final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadUpdate
from aimer2.core.study import Feature
from aimer2.core.study.formula import ROLES, Variable
from aimer2.core.table import Cell, Table, number
from aimer2.statistics.comparison import facts
from aimer2.statistics.design import Floats, numbers
from aimer2.statistics.statistic import AbstractStatistic, Cohort, Values

CLASSES = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
"""Upper ends of the classes of distances."""

_TELLING = 4
"""From so many columns on, two patients alike in all of them are perhaps one."""

Share = Annotated[float, Field(ge=0, le=1)]
Rows = NDArray[np.bool_]


@final
@dataclass(frozen=True, kw_only=True)
class DataQuality(AbstractStatistic):
    """``most_…``: limits, as shares of a hospital's rows (of its patients, for ``most_repeated``); ``most_distance``: between 0 and 1."""

    of_sites: ClassVar[frozenset[str]] = frozenset({"sites", "repeated", "between", "distances"})

    rules: tuple[str, ...] = ()
    gate: bool = True
    most_missing: Share = 0.2
    most_broken: Share = 0.01
    most_repeated: Share = 0.01
    most_distance: Share = 0.3
    bins: Annotated[int, Field(ge=2, le=200)] = 10

    def faults(self) -> Iterator[str]:
        formula = self.parsed
        if formula.response or not formula.terms or any(len(term) > 1 for term in formula.terms):
            yield "data_quality takes columns without a response: '~ age + bmi'"
            return
        yield from (f"data_quality knows no {role}()" for role in ROLES if getattr(formula, role))
        known = {variable.name for variable in formula.variables if not variable.function}
        for rule in self.rules:
            operands, _ = _parsed(rule)
            if len(operands) < 2:
                yield f"the rule {rule!r} is none: write '12 <= bmi <= 70' or 'entry <= exit'"
            for name in (one for one in operands if isinstance(one, str)):
                if name not in known or name in {variable.name for variable in self._categories}:
                    yield f"the rule {rule!r} names {name}, which is no number of the formula"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        if not disclosure.allows_exact_values(secure=secure) and self._has_few(frame, disclosure):
            why = "and this site tells such counts only as its `disclosure.exact_values` says"
            yield f"fewer than {disclosure.minimum_cell} patients are in some count, {why}"
        if self.gate and len(frame):
            yield from self._beyond(self._first(frame))

    def read(self, frame: Frame) -> Frame:
        """All rows: missing values are what is asked about."""
        return frame

    def cohorts(self, frame: Frame) -> Iterator[Cohort]:
        """Besides, who has a value in each column; and of each rule in whose rows it can be judged, is broken, and holds. Two that part few patients
        differently tell of them."""
        yield from super().cohorts(frame)
        for name in dict.fromkeys(variable.name for variable in self._columns):
            yield Cohort(f"{name} is known", frame.complete([name]), frozenset([name]))
        for rule in dict.fromkeys(self.rules):
            judged, broken = _judge(rule, frame)
            columns = frozenset(one for one in _parsed(rule)[0] if isinstance(one, str))
            for name, rows in (("judged", judged), ("broken", broken), ("holds", judged & ~broken)):
                yield Cohort(f"'{rule}' {name}", frame.at(rows), columns)

    def equations(self) -> Mapping[str, Sequence[str]]:
        """A rule is one more equation of each of its columns; so is a count of missing values, each edge between two bins, and each category."""
        rules = dict.fromkeys(self.rules)
        found = {name: [*terms, "missing", *(rule for rule in rules if name in _parsed(rule)[0])] for name, terms in super().equations().items()}
        for variable in self._ranged:
            low, high = self._range(variable)
            found[variable.name] += [f"{variable} < {low + (high - low) * place / self.bins:g}" for place in range(1, self.bins)]
        for variable in self._categories:
            found[variable.name] += [f"{variable} = {level}" for level in self._levels(variable)]
        return {name: tuple(terms) for name, terms in found.items()}

    def _has_few(self, frame: Frame, disclosure: Disclosure) -> bool:
        ruled = [rows for rule in self.rules for judged, broken in [_judge(rule, frame)] for rows in (judged, broken, judged & ~broken)]
        missing = [np.isnan(numbers(variable, frame)) for variable in self._columns]
        cells = [numbers(variable, frame) == code for variable in self._categories for code in range(len(self._levels(variable)))]
        binned = [self._place(variable, frame) == one for variable in self._ranged for one in range(self.bins)]
        return any(disclosure.is_small(frame.counted(rows)) for rows in (*ruled, *missing, *cells, *binned))

    def _beyond(self, first: Values) -> Iterator[str]:
        """Which limits these counts are beyond; of one site or of all."""
        rows, patients = (max(float(one), 1.0) for one in first["size"])
        for variable, missing in zip(self._columns, first["missing"], strict=True):
            if missing > self.most_missing * rows:
                yield f"more than {self.most_missing:.0%} of {variable} is missing"
        for rule, (judged, broken) in zip(self.rules, first["broken"], strict=True):
            if broken > self.most_broken * judged:
                yield f"'{rule}' does not hold in more than {self.most_broken:.1%} of the rows"
        repeated, alike = (float(one) for one in first["repeated"])
        if repeated > self.most_repeated * rows:
            yield f"more than {self.most_repeated:.1%} of the rows are repeated"
        if alike > self.most_repeated * patients:
            yield f"more than {self.most_repeated:.1%} of the patients are like another in every column"

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        return self._first(frame) if round_number == 1 else self._second(values, frame)

    def _first(self, frame: Frame) -> Values:
        columns = [numbers(variable, frame) for variable in self._columns]
        levels = [numbers(variable, frame) == code for variable in self._categories for code in range(len(self._levels(variable)))]
        return {
            "size": np.array([len(frame), frame.counted()], np.float64),
            "sites": np.array([float(len(frame) > 0)]),
            "missing": np.array([np.isnan(column).sum() for column in columns], np.float64),
            "sum": np.array([np.nansum(numbers(variable, frame)) for variable in self._numbers], np.float64),
            "bins": np.array([self._binned(variable, frame) for variable in self._ranged], np.float64).reshape(len(self._ranged), self.bins),
            "levels": np.array([rows.sum() for rows in levels], np.float64),
            "broken": np.array([[rows.sum() for rows in _judge(rule, frame)] for rule in self.rules], np.float64).reshape(len(self.rules), 2),
            "repeated": _repeated(np.column_stack(columns), frame.patients),
        }

    def _second(self, values: Values, frame: Frame) -> Values:
        between = np.zeros((len(self._numbers), 2))
        for place, (variable, mean) in enumerate(zip(self._numbers, values["mean"], strict=True)):
            known = numbers(variable, frame)
            known = known[~np.isnan(known)] - mean
            between[place] = known.sum() ** 2 / max(len(known), 1), known @ known
        distances = np.zeros((len(self._compared), len(CLASSES) + 1))
        own = self._first(frame)
        for place, (mine, all_of_them) in enumerate(zip(self._shares(own), self._shares(values), strict=True)):
            if mine.sum() > 0 and len(frame):
                is_number = place < len(self._ranged)
                apart = np.abs(np.cumsum(mine - all_of_them)).max() if is_number else np.abs(mine - all_of_them).sum() / 2
                distances[place, min(int(np.searchsorted(CLASSES, apart)), len(CLASSES) - 1)] = 1.0
                distances[place, -1] = float(apart > self.most_distance)
        return {"between": between, "distances": distances}

    def _shares(self, counts: Values) -> list[Floats]:
        """Of each compared column the share of its rows in each bin or category."""
        parts = [*counts["bins"], *np.split(counts["levels"], np.cumsum([len(self._levels(one)) for one in self._categories])[:-1])]
        return [part / max(float(part.sum()), 1.0) for part in parts[: len(self._compared)]]

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        if round_number > 1:
            return {**values, **total}, True
        if not total["size"][0] > 0:
            raise BadUpdate("There is no row at any site.")
        missing = dict(zip(self._columns, total["missing"], strict=True))
        known = np.array([max(total["size"][0] - missing[variable], 1.0) for variable in self._numbers])
        return {**total, "mean": total["sum"] / known}, False

    def told(self, values: Values) -> Values:
        return {name: values[name] for name in ("mean", "bins", "levels") if name in values}

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        rows, patients = (float(one) for one in values["size"])
        columns = [(str(one), round(rows - gone), round(gone), gone / rows) for one, gone in zip(self._columns, values["missing"], strict=True)]
        rules = [
            (rule, round(judged), round(broken), number(broken / judged) if judged else None)
            for rule, (judged, broken) in zip(self.rules, values["broken"], strict=True)
        ]
        repeated, alike = (float(one) for one in values["repeated"])
        doubles = [("rows repeated", round(repeated), repeated / rows), ("patients like another", round(alike), alike / patients)]
        found = [*self._beyond(values), *(f"hospitals differ in {line[0]}: {line[2]} beyond the limit" for line in self._apart(values) if line[2])]
        told: dict[str, Cell] = {**facts(values["size"]), "hospitals": round(float(values["sites"][0])), "verdict": "not fit" if found else "fit"}
        parts: list[tuple[str, tuple[str, ...], Sequence[tuple[Cell, ...]]]] = [
            ("Columns", ("column", "count", "missing", "missing_share"), columns),
            ("Rules", ("rule", "judged", "broken", "share"), rules),
            ("Doubles", ("what", "count", "share"), doubles),
            ("Between hospitals", ("column", "variance_between", "hospitals_beyond", "largest_at_most"), list(self._apart(values))),
        ]
        notes = {
            "Columns": tuple(found),
            "Between hospitals": ("Distances from all hospitals together are told in classes, so the largest is a bound.",),
        }
        return [
            Table(analysis=name, method=self.name, title=title, columns=head, rows=tuple(lines), facts=told, notes=notes.get(title, ()))
            for title, head, lines in parts
            if lines
        ]

    def _apart(self, values: Values) -> Iterator[tuple[Cell, ...]]:
        """Each column's share of variance between hospitals, how many of them are beyond the limit, and the largest distance at most."""
        shares = {
            variable: number(float(part[0] / part[1])) if part[1] > 0 else None
            for variable, part in zip(self._numbers, self._between(values), strict=True)
        }
        of = dict(zip(self._compared, values["distances"], strict=True))
        for variable in self._columns:
            if variable in of:
                held = np.flatnonzero(of[variable][:-1] > 0.5)
                yield str(variable), shares.get(variable), round(float(of[variable][-1])), CLASSES[held[-1]] if len(held) else None
            else:
                yield str(variable), shares.get(variable), None, None

    def _between(self, values: Values) -> Floats:
        return values["between"] if "between" in values else np.zeros((len(self._numbers), 2))

    def _binned(self, variable: Variable, frame: Frame) -> NDArray[np.int64]:
        place = self._place(variable, frame)
        return np.bincount(place[place >= 0], minlength=self.bins)

    def _place(self, variable: Variable, frame: Frame) -> NDArray[np.int64]:
        """Each row's bin; −1 where the value is missing."""
        low, high = self._range(variable)
        values = numbers(variable, frame)
        found = np.clip(np.floor((np.nan_to_num(values) - low) / (high - low) * self.bins), 0, self.bins - 1).astype(np.int64)
        return np.where(np.isnan(values), -1, found)

    def _range(self, variable: Variable) -> tuple[float, float]:
        """(0, 0) where the study states none, and of a function of a column."""
        feature = next(one for one in self.features if one.name == variable.name)
        known = not variable.function and feature.minimum is not None and feature.maximum is not None and feature.minimum < feature.maximum
        return (float(feature.minimum or 0), float(feature.maximum or 0)) if known else (0.0, 0.0)

    def _levels(self, variable: Variable) -> tuple[str, ...]:
        return next((tuple(one.categories) for one in self.features if one.name == variable.name), ())

    @cached_property
    def _columns(self) -> tuple[Variable, ...]:
        return tuple(term[0] for term in self.parsed.terms)

    @property
    def _categories(self) -> tuple[Variable, ...]:
        return tuple(one for one in self._columns if self._levels(one))

    @property
    def _numbers(self) -> tuple[Variable, ...]:
        return tuple(one for one in self._columns if not self._levels(one))

    @property
    def _ranged(self) -> tuple[Variable, ...]:
        return tuple(one for one in self._numbers if self._range(one) != (0.0, 0.0))

    @property
    def _compared(self) -> tuple[Variable, ...]:
        return (*self._ranged, *self._categories)


def _parsed(rule: str) -> tuple[tuple[str | float, ...], tuple[str, ...]]:
    """Operands, columns or numbers, and the signs between them; none where it is no rule."""
    parts = [part.strip() for part in re.split(r"(<=|<)", rule)]
    if not all(parts) or "" in parts:
        return (), ()
    return tuple(_number(part) for part in parts[::2]), tuple(parts[1::2])


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _judge(rule: str, frame: Frame) -> tuple[Rows, Rows]:
    """In which rows a rule can be judged, and in which of them it does not hold."""
    operands, signs = _parsed(rule)
    values = [frame.columns[one] if isinstance(one, str) else np.full(len(frame), one) for one in operands]
    judged = ~np.isnan(np.array(values)).any(axis=0)
    holds = np.ones(len(frame), bool)
    for sign, (low, high) in zip(signs, pairwise(values), strict=True):
        holds &= low < high if sign == "<" else low <= high
    return judged, judged & ~holds


def _repeated(columns: Floats, patients: NDArray[np.uint64]) -> Floats:
    """Rows that repeat one of the same patient; patients with a complete row that is another's, where there are enough columns to tell."""
    if not len(columns):
        return np.zeros(2)
    filled = np.where(np.isnan(columns), np.inf, columns)
    alike = np.unique(filled, axis=0, return_inverse=True)[1].reshape(-1)
    pairs = np.unique(np.stack([alike.astype(np.uint64), patients], axis=1), axis=0)
    shared = np.bincount(pairs[:, 0].astype(np.int64))[alike] > 1
    complete = ~np.isnan(columns).any(axis=1)
    doubles = len(np.unique(patients[shared & complete])) if columns.shape[1] >= _TELLING else 0
    return np.array([len(columns) - len(pairs), doubles], np.float64)


EXAMPLE = DataQuality(
    formula="~ x + s + z",
    features=(Feature(name="x", minimum=0, maximum=10), Feature(name="s", kind="category", categories=("f", "m")), Feature(name="z")),
    rules=("0 <= x <= 10",),
)
