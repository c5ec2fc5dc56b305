"""The form of a question about time to an event: ``Surv(time, event) ~ group``, or ``~ 1`` for all together, at times common to all hospitals.

The study states the ends of intervals (``edges``): an event counts at the end of its interval, and who is lost within one is not at risk at its end.
So nobody's time decides what is asked. What this moves is bounded from the counts: those lost within an interval were lost before its events, or
after them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.statistics import at_risk as counting
from aimer2.statistics.comparison import AbstractComparison, Level
from aimer2.statistics.statistic import Values


@dataclass(frozen=True, kw_only=True)
class AbstractOverTime(AbstractComparison):
    """``level``: of the intervals of estimates. ``edges``: ends of the intervals of time, above 0 and rising."""

    level: Level = 0.95
    edges: Annotated[tuple[float, ...], Field(min_length=1)]
    is_survival: ClassVar[bool] = True
    needs_group: ClassVar[bool] = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of events."""
        return ("1",)

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        yield from counting.faults(self.edges)

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        yield from super().against(frame, disclosure, secure=secure)
        rows = self.read(frame)
        given = counting.times(self.parsed, rows, len(self.kinds))
        if not disclosure.allows_exact_values(secure=secure):
            yield from counting.against(rows, self.codes(rows), given, self.edges, disclosure)

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        rows = self.read(frame)
        given = counting.times(self.parsed, rows, len(self.kinds))
        at_risk, events = counting.at_edges(given, self.codes(rows), len(self.levels), self.edges, len(self.kinds))
        return {"size": self.size(rows), "count": self.per_group(rows, np.ones(len(rows))), "at_risk": at_risk, "events": events}

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        return total, True
