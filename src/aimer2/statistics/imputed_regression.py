"""A regression of patients some of whose values are missing: imputed several times at the hospital, fitted each time, and pooled by Rubin's rules.

``y ~ age + bmi + C(sex)``, or ``Surv(time, event) ~ …`` with ``regression`` cox: in place of leaving out who lacks a value on the right side, each
hospital fills its own patients' gaps by chained equations (`chained_equations`) from all columns of the formula, the outcome among them; of
survival the event and the cumulative hazard (I. R. White, P. Royston, Statistics in Medicine 28 (2009)). The regressions of all imputations go
through the rounds side by side, and are pooled (`multiple_imputation`). Who lacks the outcome, a weight or an offset is left out. Values are right
on average where what is missing follows from what is known; nothing can tell whether it does. Draws follow from the hospital's data, so that every
round has the same, and nobody else knows them.

All imputations have the same patients, so that where the sums of two differ, it is by the patients with a gap: what leaves tells of these as a
regression on them alone would for each imputation, of their other values too. A hospital refuses where they are too few for that many coefficients,
or where some are, but few, whom an imputation gives a category, or in whose values two imputations differ.

Leaves the site: ``size`` = rows, patients, and sum of weights or events (this and the others but the last: of each imputation, as `glm` or `cox`
sends it, so that two imputations differ by sums over the patients with a gap alone, who must be many); ``sites`` = 1 where there is any row;
``moments`` = per column sums of values and squares; ``start`` = sums of the response, of the offset and of its exponential, or with an own
intercept whether all outcomes are the same; ``score`` = per coefficient the derivative of the log-likelihood; ``information`` = per pair of
coefficients its second derivative; ``fit`` = sums of deviance, Pearson's χ² and log-likelihood; ``likelihood`` = of ``regression`` cox the
log-likelihood; ``gaps`` = per column of the right side how many values were missing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, ClassVar, Literal, final
from weakref import WeakKeyDictionary

import numpy as np
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.random import stream
from aimer2.core.study import Feature
from aimer2.core.table import Table
from aimer2.statistics.chained_equations import Floats, Incomplete, completed
from aimer2.statistics.cox import Cox
from aimer2.statistics.design import Design, too_few
from aimer2.statistics.glm import Glm
from aimer2.statistics.multiple_imputation import pool
from aimer2.statistics.statistic import AbstractStatistic, Cohort, Values

KNOWN = 2
"""So many patients for each coefficient of an imputation must have a value, for those who lack it to be given one."""


@final
@dataclass(frozen=True, kw_only=True)
class ImputedRegression(AbstractStatistic):
    """``regression`` with its ``family`` and ``sites`` (of ``glm``; hospitals are strata of ``cox``). ``numbers``: drawn
    from those who have them, or from a normal distribution. ``imputations``: how many; ``cycles`` of each.
    ``level`` of the intervals."""

    of_sites: ClassVar[frozenset[str]] = frozenset({"size", "sites", "moments", "start", "score", "information", "fit", "likelihood", "gaps"})

    regression: Literal["glm", "cox"] = "glm"
    family: Literal["gaussian", "binomial", "poisson", "gamma"] = "gaussian"
    sites: Literal["pooled", "fixed"] = "pooled"
    numbers: Literal["matched", "normal"] = "matched"
    imputations: Annotated[int, Field(ge=2, le=50)] = 5
    cycles: Annotated[int, Field(ge=1, le=50)] = 10
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95

    def faults(self) -> Iterator[str]:
        yield from self._inner.faults()
        if self.regression == "cox" and (self.family != "gaussian" or self.sites != "pooled"):
            yield "`family` and `sites` are of regression glm; in Cox regression hospitals are strata"
        if self.numbers == "normal":
            variables = dict.fromkeys(one for term in self.parsed.terms for one in term if one.function and one.name in self._right)
            yield from (f"a normal draw may have no {one}: take numbers = matched, or a column of that already" for one in variables)

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        rows = self.read(frame)
        table = self._incomplete(rows)
        lacking = [name for name in table.missing if rows.counted(~np.isnan(rows.columns[name])) < max(self._least(table), disclosure.minimum_cell)]
        yield from (f"too few patients here have {name} to impute it for the others" for name in lacking)
        coefficients = len(self._inner._design.columns) + int(self.sites == "fixed")
        enough = self._enough(disclosure, self.imputations * coefficients)
        few = [name for name in table.missing if rows.counted(np.isnan(rows.columns[name])) < enough]
        yield from (
            f"fewer than {enough} patients here lack {name}, and what {self.imputations} imputations tell would be of them alone" for name in few
        )
        # of known values alone: whom an imputation gives a category is nobody who has it
        found = list(too_few(self._inner._design, self.parsed, self.features, rows, disclosure))
        yield from (found := [*super().against(frame, disclosure, secure=secure), *found])
        if not lacking and not few:
            made = self._imputed(frame)
            told = dict.fromkeys(reason for one in made for reason in self._inner.against(one, disclosure, secure=secure))
            yield from (reason for reason in told if reason not in found)
            yield from _close(self._inner._design, rows, made, self._enough(disclosure, coefficients))

    @staticmethod
    def _enough(disclosure: Disclosure, coefficients: int) -> int:
        """So many patients are enough for a regression with these coefficients."""
        return max(disclosure.minimum_cell, math.ceil(disclosure.patients_per_parameter * coefficients))

    def _least(self, table: Incomplete) -> int:
        return KNOWN * int(1 + table.beside.shape[1] + sum(table.levels.get(name, 2) - 1 for name in table.columns))

    def read(self, frame: Frame) -> Frame:
        """The rows in which nothing is missing but on the right side."""
        formula = self.parsed
        needed = (*formula.response, *formula.offset, *formula.weights, *formula.strata)
        return frame.complete([variable.name for variable in needed])

    def cohorts(self, frame: Frame) -> Iterator[Cohort]:
        """Besides, who has a value in each column of the right side: how many lack it is told."""
        yield from super().cohorts(frame)
        rows = self.read(frame)
        for name in self._right:
            yield Cohort(f"{name} is known", rows.complete([name]), frozenset([name]))

    def equations(self) -> Mapping[str, Sequence[str]]:
        """Each imputation's are equations of their own; so is a count of missing values."""
        told = self._inner.equations()
        made = {name: [f"{label}, imputation {one}" for one in range(1, self.imputations + 1) for label in labels] for name, labels in told.items()}
        return made | {name: [*made.get(name, ()), "missing"] for name in self._right}

    @property
    def _inner(self) -> Glm | Cox:
        if self.regression == "cox":
            return Cox(formula=self.formula, features=self.features, rounds=self.rounds, level=self.level)
        return Glm(formula=self.formula, features=self.features, rounds=self.rounds, level=self.level, family=self.family, sites=self.sites)

    @property
    def _right(self) -> list[str]:
        """The columns of the right side."""
        needed = {one.name for one in (*self.parsed.response, *self.parsed.offset, *self.parsed.weights, *self.parsed.strata)}
        return list(dict.fromkeys(one.name for term in self.parsed.terms for one in term if one.name not in needed))

    def _incomplete(self, rows: Frame) -> Incomplete:
        levels = {feature.name: len(feature.categories) for feature in self.features if feature.categories}
        formula = self.parsed
        beside = [rows.columns[variable.name] for variable in formula.response]
        if formula.survival:
            event = (beside[-1] > 0).astype(np.float64)
            beside = [event, _hazard(beside[-2], event)]
        for variable in formula.strata:
            beside += [1.0 * (rows.columns[variable.name] == code) for code in range(1, levels[variable.name])]
        columns = {name: rows.columns[name] for name in self._right}
        limits = {one.name: (one.minimum, one.maximum) for one in self.features if one.name in columns}
        return Incomplete(columns, {name: many for name, many in levels.items() if name in columns}, np.column_stack(beside), limits)

    def _imputed(self, frame: Frame) -> tuple[Frame, ...]:
        """All imputations of the rows that count; made once for the rounds of a site that keeps its frame, and forgotten with it."""
        kept = _KEPT.setdefault(frame, {})
        if self not in kept:
            kept[self] = self._made(self.read(frame))
        return kept[self]

    def _made(self, rows: Frame) -> tuple[Frame, ...]:
        table, key, made = self._incomplete(rows), _key(rows, self.parsed.columns), []
        for place in range(self.imputations):
            draws = stream(0, "imputation", self.formula, key, place)
            filled = completed(table, self.cycles, draws, matched=self.numbers == "matched")
            made.append(Frame({**rows.columns, **filled}, rows.patients))
        return tuple(made)

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        made = [self._inner.sums(_nth(values, place), one, round_number) for place, one in enumerate(self._imputed(frame))]
        told = _together(made)
        return told | {"gaps": np.array([np.isnan(rows.columns[name]).sum() for name in self._right], np.float64)} if round_number == 1 else told

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        ended = values.get("ended", np.zeros(self.imputations)) > 0
        moved: list[Values] = []
        for place in range(self.imputations):
            own: Values = {name: value for name, value in _nth(values, place).items() if name not in ("gaps", "ended")}
            if not ended[place]:
                own, is_done = self._inner.step(own, _nth(total, place), round_number)
                ended[place] = is_done
            moved.append(own)
        gaps = total["gaps"] if round_number == 1 else values["gaps"]
        return {**_together(moved), "ended": ended.astype(np.float64), "gaps": gaps}, bool(ended.all())

    def told(self, values: Values) -> Values:
        if not values:
            return {}
        return _together([self._inner.told(_nth(values, place)) for place in range(self.imputations)])

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        fits = [self._inner.tables(name, _nth(values, place))[0] for place in range(self.imputations)]
        pooled = pool(fits, self.level)
        ratio = next((column for column in fits[0].columns if f"{column}_low" in fits[0].columns), "")
        columns, rows = pooled.columns, pooled.rows
        if ratio:
            at = [columns.index(one) for one in ("estimate", "low", "high")]
            columns = (*columns, ratio, f"{ratio}_low", f"{ratio}_high")
            rows = tuple((*row, *(None if row[place] is None else float(np.exp(row[place])) for place in at)) for row in rows)  # type: ignore[arg-type]
        alike = {key: value for key, value in fits[0].facts.items() if key in ("family", "link", "rows", "patients", "events", "parameters")}
        facts = {"regression": self.regression, **alike, **pooled.facts, "cycles": self.cycles}
        facts |= {f"missing {column}": round(float(many)) for column, many in zip(self._right, values["gaps"], strict=True)}
        notes = [*dict.fromkeys(note for fit in fits for note in fit.notes)]
        notes.append("missing values were imputed at each site from its own patients; right where what is missing follows from what is known")
        update = {"columns": columns, "rows": rows, "facts": facts, "notes": tuple(notes), "method": self.name}
        return [pooled.model_copy(update=update)]


_KEPT: WeakKeyDictionary[Frame, dict[ImputedRegression, tuple[Frame, ...]]] = WeakKeyDictionary()


def _key(rows: Frame, names: Sequence[str]) -> str:
    """Of the rows' content, so that nobody who does not have them can draw the same."""
    content = hashlib.sha256()
    for part in (rows.patients, *(rows.columns[name] for name in names)):
        content.update(np.ascontiguousarray(part).tobytes())
    return content.hexdigest()


def _close(design: Design, rows: Frame, made: Sequence[Frame], enough: int) -> Iterator[str]:
    """Terms that differ in some patients, but fewer than ``enough``, between two imputations, or between one and the same without who has a gap."""
    order = np.argsort(rows.patients, kind="stable")
    starts = np.unique(rows.patients[order], return_index=True)[1]
    terms = [np.nan_to_num(design.matrix(one)[order]) for one in (rows, *made)]
    few: set[str] = set()
    for one, other in combinations(terms, 2):
        many = np.logical_or.reduceat(one != other, starts, axis=0).sum(axis=0) if len(starts) else np.zeros(len(design.names))
        few |= {name for name, count in zip(design.names, many, strict=True) if 0 < count < enough}
    yield from (f"imputations of {name} tell of fewer than {enough} patients here" for name in design.names if name in few)


def _hazard(time: Floats, event: Floats) -> Floats:
    """Nelson and Aalen's cumulative hazard at each row's own time."""
    ends, place = np.unique(time, return_inverse=True)
    died = np.bincount(place, event, len(ends))
    left = np.bincount(place, minlength=len(ends))[::-1].cumsum()[::-1]
    return np.asarray(np.cumsum(died / np.maximum(left, 1))[place])


def _nth(values: Values, place: int) -> Values:
    return {name: value[place] if name != "gaps" else value for name, value in values.items()}


def _together(parts: Sequence[Values]) -> dict[str, Floats]:
    return {name: np.array([part[name] for part in parts]) for name in parts[0]}


EXAMPLE = ImputedRegression(
    formula="y ~ x1 + C(g)",
    features=(Feature(name="y"), Feature(name="x1"), Feature(name="g", kind="category", categories=("a", "b"))),
    imputations=3,
)
