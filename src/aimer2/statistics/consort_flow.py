"""The flow of patients through a trial: how many came to each stage, and how many were lost there.

``~ eligible + consented + allocated + analysed + strata(arm)``: columns of 0 and 1, or of no and yes (a
category of two), in the order of the stages, missing being no. A patient comes to a
stage who came to all before it. Whose arm is not known stands under no arm, as those who were never allocated.

Paper: K. F. Schulz, D. G. Altman, D. Moher, "CONSORT 2010 statement", BMJ 340 (2010).

Leaves the site: ``size`` = rows and patients; ``patients`` = per arm, and for no arm, how many are assessed and how many come to each stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadData
from aimer2.core.study import Feature
from aimer2.core.study.formula import ROLES
from aimer2.core.table import Cell, Table
from aimer2.statistics.comparison import facts
from aimer2.statistics.design import numbers
from aimer2.statistics.statistic import AbstractStatistic, Values

NO_ARM = "none"


@final
@dataclass(frozen=True, kw_only=True)
class ConsortFlow(AbstractStatistic):
    """It has no options."""

    def faults(self) -> Iterator[str]:
        formula = self.parsed
        if formula.response or not formula.terms or any(len(term) > 1 for term in formula.terms):
            yield "consort_flow is asked as ~ eligible + allocated + analysed + strata(arm): stages joined by '+'"
        yield from (f"consort_flow knows no {role}()" for role in ROLES if role != "strata" and getattr(formula, role))
        if len(formula.strata) > 1 or any(not self._levels_of(one.name) for one in formula.strata):
            yield "consort_flow takes strata(…) of one category at most: the arm"
        yield from (f"{term[0]} must be 0 or 1, or have two categories" for term in formula.terms if len(self._levels_of(term[0].name)) not in (0, 2))

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        if disclosure.allows_exact_values(secure=secure):
            return
        rows = self.read(frame)
        stage, arm = self._stage(rows), self._arm(rows)
        for one in range(len(self._arms)):
            came = [rows.counted((arm == one) & (stage >= place)) for place in range(len(self.parsed.terms) + 1)]
            lost = [rows.counted((arm == one) & (stage == place)) for place in range(len(self.parsed.terms) + 1)]
            if any(disclosure.is_small(count) for count in (*came, *lost)):
                where = f" with {self.parsed.strata[0]} = {self._arms[one]}" if self.parsed.strata else ""
                yield f"fewer than {disclosure.minimum_cell} patients{where} come to some stage, or are lost there"

    def read(self, frame: Frame) -> Frame:
        """All rows: what is missing says something here."""
        return frame

    def _levels_of(self, name: str) -> tuple[str, ...]:
        return next((tuple(feature.categories) for feature in self.features if feature.name == name), ())

    @property
    def _arms(self) -> tuple[str, ...]:
        return (*self._levels_of(self.parsed.strata[0].name), NO_ARM) if self.parsed.strata else ("all",)

    def _stage(self, rows: Frame) -> NDArray[np.int64]:
        """To how many stages each patient came. Raises BadData for what is neither 0 nor 1."""
        passed = np.nan_to_num(np.stack([numbers(term[0], rows) for term in self.parsed.terms], axis=1))
        if not np.isin(passed, (0.0, 1.0)).all():
            raise BadData("A stage is neither 0 nor 1 for some patients.")
        return np.asarray(np.cumprod(passed, axis=1).sum(axis=1).astype(np.int64))

    def _arm(self, rows: Frame) -> NDArray[np.int64]:
        if not self.parsed.strata:
            return np.zeros(len(rows), np.int64)
        return np.nan_to_num(rows.columns[self.parsed.strata[0].name], nan=len(self._arms) - 1).astype(np.int64)

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        stage, arm = self._stage(rows), self._arm(rows)
        came = [[((arm == one) & (stage >= place)).sum() for place in range(len(self.parsed.terms) + 1)] for one in range(len(self._arms))]
        return {"size": np.array([len(rows), rows.counted()], np.float64), "patients": np.array(came, np.float64)}

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        return total, True

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        stages = ("assessed", *(str(term[0]) for term in self.parsed.terms))
        named = [*zip(self._arms, values["patients"], strict=True)]
        if self.parsed.strata:
            named.append(("all", values["patients"].sum(axis=0)))
        rows: list[tuple[Cell, ...]] = []
        for arm, counts in named:
            before = counts[0]
            for stage, count in zip(stages, counts, strict=True):
                rows.append((arm, stage, round(float(count)), round(float(before - count))))
                before = count
        return [
            Table(
                analysis=name,
                method=self.name,
                title="Flow",
                columns=("arm", "stage", "patients", "lost"),
                rows=tuple(rows),
                facts=facts(values["size"]),
            )
        ]


EXAMPLE = ConsortFlow(
    formula="~ e + f + strata(g)", features=tuple(Feature(name=name, kind="category", categories=("no", "yes")) for name in ("e", "f", "g"))
)
