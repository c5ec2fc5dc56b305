"""A regression of patients some of whose values are missing: imputed several times at the hospital, fitted each time, and pooled by Rubin's rules.

``y ~ age + bmi + C(sex)``, or ``Surv(time, event) ~ …`` with ``regression`` cox: in place of leaving out who lacks a value on the right side, each
hospital fills its own patients' gaps by chained equations (`chained_equations`) from all columns of the formula, the outcome among them; of
survival the event and the cumulative hazard (I. R. White, P. Royston, Statistics in Medicine 28 (2009)). The regressions of all imputations go
through the rounds side by side, and are pooled (`multiple_imputation`). Who lacks the outcome, a weight or an offset is left out. Values are right
on average where what is missing follows from what is known; nothing can tell whether it does. Draws follow from the hospital's data, so that every
round has the same, and nobody else knows them. No imputed value leaves.

Leaves the site: ``size`` = rows, patients, and sum of weights or events (this and the others but the last: of each imputation, as `glm` or `cox`
sends it); ``sites`` = 1 where there is any row; ``moments`` = per column sums of values and squares; ``start`` = sums of the response, of the
offset and of its exponential, or with an own intercept whether all outcomes are the same; ``score`` = per coefficient the derivative of the
log-likelihood; ``information`` = per pair of coefficients its second derivative; ``fit`` = sums of deviance, Pearson's χ² and log-likelihood;
``likelihood`` = of ``regression`` cox the log-likelihood; ``gaps`` = per column of the right side how many values were missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar, Literal, final

import numpy as np
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.random import stream
from aimer2.core.study import Feature
from aimer2.core.table import Table
from aimer2.statistics.chained_equations import Floats, Incomplete, completed
from aimer2.statistics.cox import Cox
from aimer2.statistics.glm import Glm
from aimer2.statistics.multiple_imputation import pool
from aimer2.statistics.statistic import AbstractStatistic, Values

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
    imputations: Annotated[int, Field(ge=2, le=50)] = 10
    cycles: Annotated[int, Field(ge=1, le=50)] = 10
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95

    def faults(self) -> Iterator[str]:
        yield from self._inner.faults()
        if self.regression == "cox" and (self.family != "gaussian" or self.sites != "pooled"):
            yield "`family` and `sites` are of regression glm; in Cox regression hospitals are strata"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        rows = self.read(frame)
        table = self._incomplete(rows)
        lacking = [name for name in table.missing if rows.counted(~np.isnan(rows.columns[name])) < max(self._least(table), disclosure.minimum_cell)]
        yield from (f"too few patients here have {name} to impute it for the others" for name in lacking)
        if not lacking:
            yield from self._inner.against(self._imputed(rows)[0], disclosure, secure=secure)

    def _least(self, table: Incomplete) -> int:
        return KNOWN * int(1 + table.beside.shape[1] + sum(table.levels.get(name, 2) - 1 for name in table.columns))

    def read(self, frame: Frame) -> Frame:
        """The rows in which nothing is missing but on the right side."""
        formula = self.parsed
        needed = (*formula.response, *formula.offset, *formula.weights, *formula.strata)
        return frame.complete([variable.name for variable in needed])

    def equations(self) -> Mapping[str, Sequence[str]]:
        told = self._inner.equations()
        return {name: [f"{label}, imputation {one}" for one in range(1, self.imputations + 1) for label in labels] for name, labels in told.items()}

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
        return Incomplete(columns, {name: many for name, many in levels.items() if name in columns}, np.column_stack(beside))

    def _imputed(self, rows: Frame) -> tuple[Frame, ...]:
        return _filled(self, _Keyed(rows, tuple(self.parsed.columns)))

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        made = [self._inner.sums(_nth(values, place), one, round_number) for place, one in enumerate(self._imputed(rows))]
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


@final
class _Keyed:
    """Rows with a key of their content: their imputations are made once, and nobody who does not have them can draw the same."""

    def __init__(self, rows: Frame, names: Sequence[str]) -> None:
        self.rows = rows
        content = hashlib.sha256()
        for part in (rows.patients, *(rows.columns[name] for name in names)):
            content.update(np.ascontiguousarray(part).tobytes())
        self.key = content.hexdigest()

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed) and other.key == self.key


@lru_cache(maxsize=4)
def _filled(method: ImputedRegression, keyed: _Keyed) -> tuple[Frame, ...]:
    """All imputations of a site's rows; the last ones asked about are kept for the following rounds."""
    rows = keyed.rows
    if not len(rows):
        return (rows,) * method.imputations
    table, made = method._incomplete(rows), []
    for place in range(method.imputations):
        draws = stream(0, "imputation", method.formula, keyed.key, place)
        filled = completed(table, method.cycles, draws, matched=method.numbers == "matched")
        made.append(Frame({**rows.columns, **filled}, rows.patients))
    return tuple(made)


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
