"""The form of a question that compares groups: ``outcome ~ group``, the group being a category that the study states."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadData, BadInput
from aimer2.core.said import say
from aimer2.core.study.formula import ROLES, Variable
from aimer2.core.table import Cell, Table, number
from aimer2.statistics.design import Floats, groups, numbers
from aimer2.statistics.significance import Effect, Significance
from aimer2.statistics.statistic import AbstractStatistic, Values

Level = Annotated[float, Field(gt=0.5, lt=1)]

EFFECT = ("estimate", "standard_error", "low", "high")
SIGNIFICANCE = ("statistic", "freedom", "p")


@dataclass(frozen=True, kw_only=True)
class AbstractComparison(AbstractStatistic):
    """What its kinds have in common: one outcome, or time and event, and one category."""

    most_groups: ClassVar[int] = 50
    needs_group: ClassVar[bool] = True
    takes_strata: ClassVar[bool] = False
    takes_offset: ClassVar[bool] = False
    is_survival: ClassVar[bool] = False

    def faults(self) -> Iterator[str]:
        formula = self.parsed
        form = "Surv(time, event) ~ group" if self.is_survival else "outcome ~ group"
        if len(formula.response) != (2 if self.is_survival else 1) or formula.survival != self.is_survival:
            yield f"{self.name} is asked as {form}"
        elif not formula.terms and not self.needs_group:
            pass
        elif len(formula.terms) != 1 or len(formula.terms[0]) != 1:
            yield f"{self.name} compares the groups of one column: {form}"
        elif not 2 <= len(self.categories_of(self._group)) <= self.most_groups:
            least = "two" if self.most_groups == 2 else f"two to {self.most_groups}"
            yield f'{self._group} must have {least} categories: list them in `cohort.features`, or write C({self._group.name}, "one", "other")'
        taken = {"offset": self.takes_offset, "strata": self.takes_strata}
        yield from (f"{self.name} knows no {role}()" for role in ROLES if getattr(formula, role) and not taken.get(role))
        yield from (f"strata({one}) is no category" for one in formula.strata if not self.categories_of(one))

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        rows = self.read(frame)
        codes = self.codes(rows)
        for code, level in enumerate(self.levels):
            if self.parsed.terms and disclosure.is_small(rows.counted(codes == code)):
                yield f"fewer than {disclosure.minimum_cell} patients have {self._group} = {level}"

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        """The answer, or why there is none."""
        try:
            return self.answer(name, values)
        except BadInput as error:
            return [
                Table(
                    analysis=name,
                    method=self.name,
                    title="No answer",
                    columns=("term",),
                    rows=(),
                    facts=facts(values["size"]),
                    notes=(error.sentence,),
                )
            ]

    @abstractmethod
    def answer(self, name: str, values: Values) -> Sequence[Table]:
        """Raises BadInput, with a sentence for people, where these patients give no answer. Of the values, ``size`` is rows and patients."""

    def start(self) -> Values:
        return {}

    @property
    def _group(self) -> Variable:
        return self.parsed.terms[0][0]

    def categories_of(self, variable: Variable) -> tuple[str, ...]:
        """None for a number."""
        return next((tuple(feature.categories) for feature in self.features if feature.name == variable.name), ())

    @property
    def levels(self) -> tuple[str, ...]:
        """The groups' names; without a group there is one, of all."""
        return self.categories_of(self._group) if self.parsed.terms else ("all",)

    @property
    def outcome(self) -> Variable:
        return self.parsed.response[-1]

    def codes(self, rows: Frame) -> npt.NDArray[np.int64]:
        """Each row's group."""
        return groups((self._group,) if self.parsed.terms else (), self.features, rows)[0]

    def strata(self, rows: Frame) -> npt.NDArray[np.int64]:
        """Each row's stratum; all the same without strata."""
        return groups(self.parsed.strata, self.features, rows)[0]

    def values(self, rows: Frame) -> Floats:
        """Each row's outcome as a number. Raises BadData for a category."""
        if self.categories_of(self.outcome):
            raise BadData(say("{outcome} is a category, and {name} wants a number.", outcome=self.outcome, name=self.name))
        return numbers(self.outcome, rows)

    def per_group(self, rows: Frame, values: Floats) -> Floats:
        """``(G,)``: the sum of the values in each group."""
        return np.bincount(self.codes(rows), weights=values, minlength=len(self.levels)).astype(np.float64)

    def size(self, rows: Frame) -> Floats:
        """``(2,)``: rows, and patients."""
        return np.array([len(rows), rows.counted()], np.float64)


def has_few(rows: Frame, cell: npt.NDArray[np.int64], disclosure: Disclosure) -> bool:
    """Whether some cell that has a row at all has rows of fewer patients than the minimum; ``cell``: each row's."""
    pairs = np.unique(np.stack([cell.astype(np.uint64), rows.patients], axis=1), axis=0)
    return bool((np.unique(pairs[:, 0], return_counts=True)[1] < disclosure.minimum_cell).any())


def events(variable: Variable, levels: tuple[str, ...], rows: Frame) -> npt.NDArray[np.bool_]:
    """Who had the event: of a number those with 1, of a category of two those of the second. Raises BadData for anything else than 0 and 1."""
    values = numbers(variable, rows)
    if not levels and not np.isin(values, (0.0, 1.0)).all():
        raise BadData(say("{variable} is neither 0 nor 1 for some patients.", variable=variable))
    return np.asarray(values == 1)


def effect_cells(effect: Effect) -> tuple[Cell, ...]:
    return tuple(number(value) for value in effect)


def significance_cells(test: Significance) -> tuple[Cell, ...]:
    """Two degrees of freedom stand as words."""
    freedom: Cell = None
    if len(test.freedom) == 1:
        freedom = number(test.freedom[0])
    elif test.freedom:
        freedom = " and ".join(f"{one:g}" for one in test.freedom)
    return number(test.statistic), freedom, number(test.p)


def facts(size: Floats) -> dict[str, Cell]:
    return {"rows": round(float(size[0])), "patients": round(float(size[1]))}
