"""Incidence rates or prevalences with exact intervals, by group, and standardised directly and indirectly.

``event ~ group + strata(age_band) + offset(years)``: with an offset, the person-time, rates; without, shares of the patients. The group may be left
out (``event ~ 1``). The event is 0 or 1, a category of two, or with person-time a number of events. With strata the study may state a standard:
``population``, how many it has in each stratum (direct: what the rate would be with its strata), or ``rates``, its rate in each (indirect: events
seen over those expected, the standardised ratio, as SMR). ``per`` is the unit of person-time or of patients that rates are told for.

Papers: those of `aimer2.statistics.rates`.

Leaves the site: ``size`` = rows and patients; ``events`` = per group and stratum; ``time`` = per group and stratum the person-time, or how many
patients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadData, BadInput
from aimer2.core.said import say
from aimer2.core.study import Feature
from aimer2.core.table import Cell, Table
from aimer2.statistics.comparison import EFFECT, AbstractComparison, Level, effect_cells, facts, has_few
from aimer2.statistics.design import Floats, groups, numbers
from aimer2.statistics.rates import directly, incidence, indirectly, prevalence
from aimer2.statistics.significance import Effect
from aimer2.statistics.statistic import Values


@final
@dataclass(frozen=True, kw_only=True)
class Incidence(AbstractComparison):
    """``population``, ``rates``: of the standard, one per stratum. ``per``: rates are told for so much. ``level``: of the intervals."""

    population: tuple[Annotated[float, Field(ge=0)], ...] = ()
    rates: tuple[Annotated[float, Field(ge=0)], ...] = ()
    per: Annotated[float, Field(gt=0)] = 1.0
    level: Level = 0.95
    needs_group: ClassVar[bool] = False
    takes_strata: ClassVar[bool] = True
    takes_offset: ClassVar[bool] = True

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        strata = math.prod(len(self.categories_of(one)) for one in self.parsed.strata)
        if any(len(standard) not in (0, strata) for standard in (self.population, self.rates)):
            yield f"a standard has one number for each of the {strata} strata, in the order of their categories"
        if (self.population or self.rates) and not self.parsed.strata:
            yield "a standard needs strata(…)"
        if len(self.parsed.offset) > 1:
            yield "there is one person-time: offset(…) once"
        if self.parsed.response and len(self.categories_of(self.outcome)) not in (0, 2):
            yield f"{self.outcome} must have two categories, the event being the second, or be a number of events"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        rows = self.read(frame)
        cell = self._cell(rows)
        if has_few(rows, cell, disclosure):
            yield f"fewer than {disclosure.minimum_cell} patients are in a group of a stratum"
        ill = self._events(rows) > 0
        if has_few(rows.at(ill), cell[ill], disclosure) or (not self.parsed.offset and has_few(rows.at(~ill), cell[~ill], disclosure)):
            yield f"fewer than {disclosure.minimum_cell} patients in a group of a stratum have the event, or not"

    @property
    def _strata(self) -> tuple[str, ...]:
        return groups(self.parsed.strata, self.features, Frame.empty(self.parsed.columns))[1]

    def _cell(self, rows: Frame) -> NDArray[np.int64]:
        return np.asarray(self.codes(rows) * len(self._strata) + self.strata(rows))

    def _events(self, rows: Frame) -> Floats:
        """Raises BadData for what is no number of events."""
        seen = rows.columns[self.outcome.name] if self.categories_of(self.outcome) else self.values(rows)
        most = np.inf if self.parsed.offset else 1.0
        if (seen < 0).any() or (seen > most).any() or (seen != np.floor(seen)).any():
            raise BadData(f"{self.outcome} is no number of events" + ("" if self.parsed.offset else " (0 or 1)") + " for some patients.")
        return seen

    def _time(self, rows: Frame) -> Floats:
        """Raises BadData for a person-time not above 0."""
        if not self.parsed.offset:
            return np.ones(len(rows))
        lived = numbers(self.parsed.offset[0], rows)
        if (lived <= 0).any():
            raise BadData(say("{offset} is not above 0 for some patients.", offset=self.parsed.offset[0]))
        return lived

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        shape = len(self.levels), len(self._strata)
        events, time = (
            np.bincount(self._cell(rows), weights=one, minlength=shape[0] * shape[1]).reshape(shape) for one in (self._events(rows), self._time(rows))
        )
        return {"size": self.size(rows), "events": events.astype(np.float64), "time": time.astype(np.float64)}

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        return total, True

    def answer(self, name: str, values: Values) -> Sequence[Table]:
        events, time = values["events"], values["time"]
        lines = [(level, "", *self._line(d.sum(), t.sum())) for level, d, t in zip(self.levels, events, time, strict=True)]
        if self.parsed.strata:
            lines += [
                (level, stratum, *self._line(d, t))
                for level, ds, ts in zip(self.levels, events, time, strict=True)
                for stratum, d, t in zip(self._strata, ds, ts, strict=True)
            ]
        columns = ("group", "stratum", "events", "person_time" if self.parsed.offset else "patients", *EFFECT)
        shown = {**facts(values["size"]), "per": self.per, "level": self.level}
        title = "Incidence" if self.parsed.offset else "Prevalence"
        tables = [Table(analysis=name, method=self.name, title=title, columns=columns, rows=tuple(lines), facts=shown)]
        return [*tables, *self._directly(name, events, time), *self._indirectly(name, events, time)]

    def _line(self, events: float, time: float) -> tuple[Cell, ...]:
        """Without patients there is no rate."""
        if time <= 0:
            return (0, 0.0, None, None, None, None)
        found = incidence(events, time, self.level) if self.parsed.offset else prevalence(events, time, self.level)
        return (round(float(events)), float(time), *effect_cells(self._told(found)))

    def _told(self, effect: Effect) -> Effect:
        return Effect(*(self.per * one for one in effect))

    def _directly(self, name: str, events: Floats, time: Floats) -> Iterator[Table]:
        if not self.population:
            return
        lines: list[tuple[Cell, ...]] = []
        notes: list[str] = []
        for level, d, t in zip(self.levels, events, time, strict=True):
            try:
                lines.append((level, *effect_cells(self._told(directly(d, t, self.population, self.level)))))
            except BadInput as error:
                lines.append((level, None, None, None, None))
                notes.append(f"{level}: {error.sentence}")
        title, columns = "Directly standardised", ("group", *EFFECT)
        yield Table(analysis=name, method=self.name, title=title, columns=columns, rows=tuple(lines), facts={"per": self.per}, notes=tuple(notes))

    def _indirectly(self, name: str, events: Floats, time: Floats) -> Iterator[Table]:
        if not self.rates:
            return
        lines: list[tuple[Cell, ...]] = []
        for level, d, t in zip(self.levels, events, time, strict=True):
            try:
                expected, ratio = indirectly(float(d.sum()), t, np.array(self.rates) / self.per, self.level)
                lines.append((level, round(float(d.sum())), expected, *effect_cells(ratio)))
            except BadInput:
                lines.append((level, 0, 0.0, None, None, None, None))
        columns = ("group", "observed", "expected", *EFFECT)
        yield Table(analysis=name, method=self.name, title="Standardised ratio", columns=columns, rows=tuple(lines))


EXAMPLE = Incidence(
    formula="y ~ g + strata(s) + offset(t)",
    features=(
        Feature(name="y"),
        Feature(name="t"),
        Feature(name="g", kind="category", categories=("a", "b")),
        Feature(name="s", kind="category", categories=("young", "old")),
    ),
    population=(3.0, 1.0),
    rates=(0.1, 0.2),
)
