"""Cases by epidemiological week, weeks with more than expected, and what reporting delay still hides.

``~ week + strata(region)``: a row is a case, its week a whole number that the study counts through (`minimum` and `maximum` in
`cohort.features`: the series has all weeks between them). ``reported ~ week`` also says in which week a case became known; then the last weeks are
told as they will be once all is known, by chain ladder over up to ``delay`` weeks. ``detector``: Farrington's (seasonal, needs ``years`` of weeks
before), CUSUM, or EARS C1, C2, C3.

Papers: those of `aimer2.statistics.aberration`.

Leaves the site: ``size`` = rows and patients; ``cases`` = per stratum, week and, where it is asked about, weeks of delay how many cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadData
from aimer2.core.said import say
from aimer2.core.study import Feature
from aimer2.core.table import Cell, Table
from aimer2.statistics import aberration
from aimer2.statistics.comparison import facts, has_few
from aimer2.statistics.design import groups, numbers
from aimer2.statistics.statistic import Values
from aimer2.statistics.weeks import AbstractWeeks


@final
@dataclass(frozen=True, kw_only=True)
class Surveillance(AbstractWeeks):
    """``delay``: the most weeks that a report takes. The other options are of the detector."""

    delay: Annotated[int, Field(ge=1, le=104)] = 8

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if len(self.parsed.response) > 1:
            yield "surveillance is asked as ~ week, or reported ~ week"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        rows = self.read(frame)
        if not disclosure.allows_exact_values(secure=secure) and has_few(rows, self._cell(rows), disclosure):
            yield f"fewer than {disclosure.minimum_cell} patients are in some week, and this site tells those only as `disclosure.exact_values` says"

    @property
    def _delays(self) -> int:
        return self.delay + 1 if self.parsed.response else 1

    def _cell(self, rows: Frame) -> NDArray[np.int64]:
        """Each row's stratum, week and delay. Raises BadData for what is no week of the study, or known before it began."""
        week = numbers(self.parsed.terms[0][0], rows)
        low, high = self.span
        if ((week < low) | (week > high) | (week != np.floor(week))).any():
            raise BadData(say("{terms} is no week of the study for some cases.", terms=self.parsed.terms[0][0]))
        late = numbers(self.parsed.response[0], rows) - week if self.parsed.response else np.zeros(len(rows))
        if ((late < 0) | (late != np.floor(late))).any():
            raise BadData("Some cases are known before the week they began in, or not in a whole week.")
        stratum, _ = groups(self.parsed.strata, self.features, rows)
        place = (stratum * self.weeks + (week - low).astype(np.int64)) * self._delays
        return np.asarray(place + np.minimum(late, self._delays - 1).astype(np.int64))

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        strata = len(self.strata)
        cases = np.bincount(self._cell(rows), minlength=strata * self.weeks * self._delays)
        size = np.array([len(rows), rows.counted()], np.float64)
        return {"size": size, "cases": cases.reshape(strata, self.weeks, self._delays).astype(np.float64)}

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        return total, True

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        rows: list[tuple[Cell, ...]] = []
        for stratum, cases in zip(self.strata, values["cases"], strict=True):
            series = cases.sum(axis=1)
            full = aberration.expected_in_full(cases) if self.parsed.response else series
            for week, count, known, judged in zip(range(self.span[0], self.span[1] + 1), series, full, self.judged(full), strict=True):
                rows.append((stratum, week, round(float(count)), float(known), *judged))
        columns = ("stratum", "week", "cases", "in_full", "expected", "statistic", "limit", "alarm")
        shown: dict[str, Cell] = {**facts(values["size"]), "detector": self.detector.replace("_", " ")}
        return [Table(analysis=name, method=self.name, title="Weeks", columns=columns, rows=tuple(rows), facts=shown, notes=self.notes)]


EXAMPLE = Surveillance(formula="~ w", features=(Feature(name="w", minimum=1, maximum=30),), detector="ears_c2")
