"""Whether a study is worth writing: how many patients meet its criteria, one after the other, in rounded numbers and over all hospitals only.

``~ age + sex + ef``, the columns that the criteria read, and ``criteria``: each ``column >= number`` (also ``>``, ``<=``, ``<``, ``=``, ``!=``) or
``column = category``, in the order in which they are asked. A patient meets a criterion who has a row that meets it and all before it; a missing
value meets none. Every hospital rounds its own count to the nearest multiple of ``to_nearest`` before anything leaves, and says none where there are
fewer than that: so an answer tells of no single patient, and two questions that differ by few patients have mostly the same answer. The total is
off by at most ``to_nearest`` − 1 for each hospital.

Method: rounding and a smallest cell as national offices of statistics have them for tables of counts (A. Hundepool et al., "Statistical Disclosure
Control", Wiley 2012, chapter 5).

Leaves the site: ``patients`` = of all patients, and after each criterion, how many are left, rounded so; ``sites`` = 1 where there are any.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.study import Feature
from aimer2.core.study.formula import ROLES
from aimer2.core.table import Cell, Table
from aimer2.statistics.statistic import AbstractStatistic, Cohort, Values

_CRITERION = re.compile(r"\s*(\w+)\s*(>=|<=|!=|>|<|=)\s*(.+?)\s*")
_COMPARED: Mapping[str, Callable[[NDArray[np.float64], float], NDArray[np.bool_]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
    "!=": operator.ne,
}


@final
@dataclass(frozen=True, kw_only=True)
class Feasibility(AbstractStatistic):
    """``criteria``: see above. ``to_nearest``: what each hospital rounds its counts to; a hospital whose `minimum_cell` is larger refuses."""

    of_sites: ClassVar[frozenset[str]] = frozenset({"patients", "sites"})

    criteria: tuple[str, ...] = ()
    to_nearest: Annotated[int, Field(ge=5, le=1000)] = 10

    def faults(self) -> Iterator[str]:
        formula = self.parsed
        if formula.response or not formula.terms or any(len(term) > 1 for term in formula.terms) or any(getattr(formula, role) for role in ROLES):
            yield "feasibility is asked as ~ age + sex + …: the columns that its criteria read, joined by '+'"
            return
        if not self.criteria:
            yield 'feasibility needs `criteria`, for example "age >= 60"'
        read = {str(term[0]) for term in formula.terms}
        for criterion in self.criteria:
            yield from self._faults_of(criterion, read)
        if unused := read - {found[1] for one in self.criteria if (found := _CRITERION.fullmatch(one))}:
            yield f"no criterion reads {', '.join(sorted(unused))}, so the formula must not name it"

    def _faults_of(self, criterion: str, read: set[str]) -> Iterator[str]:
        found = _CRITERION.fullmatch(criterion)
        if found is None or found[1] not in read:
            yield f"the criterion '{criterion}' is not a column of the formula, one of {' '.join(_COMPARED)}, and a value"
            return
        levels = self._levels(found[1])
        if levels and (found[2] not in ("=", "!=") or found[3] not in levels):
            yield f"the criterion '{criterion}' must be = or != one of {', '.join(levels)}"
        if not levels and not re.fullmatch(r"-?\d+(\.\d+)?", found[3]):
            yield f"the criterion '{criterion}' compares a number with '{found[3]}'"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        if disclosure.minimum_cell > self.to_nearest:
            yield f"this hospital tells no counts of fewer than {disclosure.minimum_cell} patients, and the question rounds to {self.to_nearest}"

    def read(self, frame: Frame) -> Frame:
        """All rows: a missing value meets no criterion."""
        return frame

    def cohorts(self, frame: Frame) -> Iterator[Cohort]:
        columns = frozenset(self.parsed.columns)
        yield Cohort("", frame, columns)
        for place, rows in enumerate(self._left(frame), 1):
            yield Cohort(f"criterion {place}", frame.at(rows), columns)

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        counts = [frame.counted(), *(frame.counted(rows) for rows in self._left(frame))]
        return {"patients": np.array([self._rounded(count) for count in counts]), "sites": np.array([float(len(frame) > 0)])}

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        return total, True

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        stages = ("all patients", *self.criteria)
        rows: list[tuple[Cell, ...]] = [(stage, round(float(count))) for stage, count in zip(stages, values["patients"], strict=True)]
        sites = round(float(values["sites"][0]))
        facts = {"hospitals": sites, "rounded to": self.to_nearest, "off by at most": sites * (self.to_nearest - 1)}
        return [Table(analysis=name, method=self.name, title="Feasibility", columns=("criterion", "patients"), rows=tuple(rows), facts=facts)]

    def _rounded(self, count: int) -> float:
        if count < self.to_nearest:
            return 0.0
        return float(self.to_nearest * ((count + self.to_nearest // 2) // self.to_nearest))

    def _left(self, frame: Frame) -> Iterator[NDArray[np.bool_]]:
        """The rows that meet each criterion and all before it."""
        left = np.ones(len(frame), bool)
        for criterion in self.criteria:
            found = _CRITERION.fullmatch(criterion)
            assert found is not None
            column, levels = frame.columns[found[1]], self._levels(found[1])
            value = float(levels.index(found[3])) if levels else float(found[3])
            left = left & ~np.isnan(column) & _COMPARED[found[2]](column, value)
            yield left

    def _levels(self, name: str) -> tuple[str, ...]:
        return next((tuple(feature.categories) for feature in self.features if feature.name == name), ())


EXAMPLE = Feasibility(
    formula="~ e + f",
    features=(Feature(name="e"), Feature(name="f", kind="category", categories=("no", "yes"))),
    criteria=("e >= 2", "f = yes"),
)
