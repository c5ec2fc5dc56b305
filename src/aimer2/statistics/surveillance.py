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
from typing import Annotated, Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadData
from aimer2.core.study import Feature
from aimer2.core.study.formula import ROLES
from aimer2.core.table import Cell, Table, number
from aimer2.statistics import aberration
from aimer2.statistics.comparison import facts, has_few
from aimer2.statistics.design import Floats, groups, numbers
from aimer2.statistics.statistic import AbstractStatistic, Values

Detector: TypeAlias = Literal["none", "farrington", "cusum", "ears_c1", "ears_c2", "ears_c3"]

MOST_WEEKS = 3000


@final
@dataclass(frozen=True, kw_only=True)
class Surveillance(AbstractStatistic):
    """``detector`` with what it needs: ``years``, ``window`` and ``alpha`` (one-sided) for Farrington; ``baseline``, ``reference`` and ``limit`` for
    CUSUM; ``deviations`` for EARS C1 and C2. ``per_year``: weeks in a year. ``delay``: the most weeks that a report takes."""

    detector: Detector = "farrington"
    per_year: Annotated[int, Field(ge=2, le=366)] = 52
    years: Annotated[int, Field(ge=1, le=20)] = 5
    window: Annotated[int, Field(ge=1, le=20)] = 3
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.005
    baseline: Annotated[int, Field(ge=2)] = 52
    reference: Annotated[float, Field(gt=0)] = 1.0
    limit: Annotated[float, Field(gt=0)] = 2.26
    deviations: Annotated[float, Field(gt=0)] = 3.0
    delay: Annotated[int, Field(ge=1, le=104)] = 8

    def faults(self) -> Iterator[str]:
        formula = self.parsed
        if len(formula.terms) != 1 or len(formula.terms[0]) != 1 or len(formula.response) > 1 or formula.terms[0][0].function:
            yield "surveillance is asked as ~ week, or reported ~ week"
        elif not 1 < self._weeks <= MOST_WEEKS:
            yield f"{formula.terms[0][0]} needs whole `minimum` and `maximum` in `cohort.features`: the first and the last week, at most {MOST_WEEKS}"
        yield from (f"surveillance knows no {role}()" for role in ROLES if role != "strata" and getattr(formula, role))
        kinds = {feature.name: feature.kind for feature in self.features}
        yield from (f"strata({one}) is no category" for one in formula.strata if kinds.get(one.name) != "category")

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        rows = self.read(frame)
        if not disclosure.allows_exact_values(secure=secure) and has_few(rows, self._cell(rows), disclosure):
            yield f"fewer than {disclosure.minimum_cell} patients are in some week, and this site tells those only as `disclosure.exact_values` says"

    @property
    def _range(self) -> tuple[int, int]:
        name = self.parsed.terms[0][0].name
        low, high = next(((one.minimum, one.maximum) for one in self.features if one.name == name), (None, None))
        return (0, -1) if low is None or high is None or low != int(low) or high != int(high) else (int(low), int(high))

    @property
    def _weeks(self) -> int:
        return self._range[1] - self._range[0] + 1

    @property
    def _delays(self) -> int:
        return self.delay + 1 if self.parsed.response else 1

    def _cell(self, rows: Frame) -> NDArray[np.int64]:
        """Each row's stratum, week and delay. Raises BadData for what is no week of the study, or known before it began."""
        week = numbers(self.parsed.terms[0][0], rows)
        low, high = self._range
        if ((week < low) | (week > high) | (week != np.floor(week))).any():
            raise BadData(f"{self.parsed.terms[0][0]} is no week of the study for some cases.")
        late = numbers(self.parsed.response[0], rows) - week if self.parsed.response else np.zeros(len(rows))
        if ((late < 0) | (late != np.floor(late))).any():
            raise BadData("Some cases are known before the week they began in, or not in a whole week.")
        stratum, _ = groups(self.parsed.strata, self.features, rows)
        place = (stratum * self._weeks + (week - low).astype(np.int64)) * self._delays
        return np.asarray(place + np.minimum(late, self._delays - 1).astype(np.int64))

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        strata = len(groups(self.parsed.strata, self.features, Frame.empty(self.parsed.columns))[1])
        cases = np.bincount(self._cell(rows), minlength=strata * self._weeks * self._delays)
        size = np.array([len(rows), rows.counted()], np.float64)
        return {"size": size, "cases": cases.reshape(strata, self._weeks, self._delays).astype(np.float64)}

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        return total, True

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        _, named = groups(self.parsed.strata, self.features, Frame.empty(self.parsed.columns))
        rows: list[tuple[Cell, ...]] = []
        for stratum, cases in zip(named, values["cases"], strict=True):
            series = cases.sum(axis=1)
            full = aberration.expected_in_full(cases) if self.parsed.response else series
            judged = self._judged(full)
            for place, (week, alarm) in enumerate(zip(range(self._range[0], self._range[1] + 1), judged.alarms, strict=True)):
                told = (number(float(one[place])) for one in (judged.expected, judged.statistic, judged.limit))
                rows.append((stratum, week, round(float(series[place])), float(full[place]), *told, "alarm" if alarm else ""))
        columns = ("stratum", "week", "cases", "in_full", "expected", "statistic", "limit", "alarm")
        shown: dict[str, Cell] = {**facts(values["size"]), "detector": self.detector.replace("_", " ")}
        notes = ("Weeks without a limit have too few weeks before them.",) if self.detector != "none" else ()
        return [Table(analysis=name, method=self.name, title="Weeks", columns=columns, rows=tuple(rows), facts=shown, notes=notes)]

    def _judged(self, counts: Floats) -> aberration.Judged:
        if self.detector == "farrington":
            return aberration.farrington(counts, per_year=self.per_year, years=self.years, window=self.window, alpha=self.alpha)
        if self.detector == "cusum":
            return aberration.cusum(counts, baseline=self.baseline, reference=self.reference, limit=self.limit)
        if self.detector.startswith("ears"):
            lag = 0 if self.detector == "ears_c1" else 2
            return aberration.ears(counts, lag=lag, summed=self.detector == "ears_c3", deviations=self.deviations)
        unknown = np.full(len(counts), np.nan)
        return aberration.Judged(unknown, unknown, unknown)


EXAMPLE = Surveillance(formula="~ w", features=(Feature(name="w", minimum=1, maximum=30),), detector="ears_c2")
