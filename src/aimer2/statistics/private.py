"""What the methods under differential privacy share: one bounded part for each patient, their sum with Gaussian noise, intervals that hold the noise.

Neighbouring data sets differ by one patient who is there or not, with all rows: of several rows the first counts. Each patient's part is shortened to
the length that the method states, so that the guarantee rests on nothing that the data do. Values outside the study's range count as its ends.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import numpy.typing as npt

from aimer2.core.dataset import Frame
from aimer2.core.random import SecureBytes
from aimer2.core.study import Feature
from aimer2.core.study.formula import ROLES
from aimer2.core.tree import NumpyArray
from aimer2.privacy.gaussian import gaussian as drawn
from aimer2.statistics.comparison import Level
from aimer2.statistics.statistic import AbstractStatistic, Values

Floats = npt.NDArray[np.float64]

NOISY = "parts"
"""The sum that gets noise; besides it a site says only that it is there."""

_BLOCK = 1024
"""Patients whose parts are in memory together."""


@dataclass(frozen=True, kw_only=True)
class AbstractPrivate(AbstractStatistic):
    """``noise``: standard deviation at each site, in units of a patient's longest part, as the study's ε has it. ``level``: of the intervals."""

    of_sites: ClassVar[frozenset[str]] = frozenset({"sites"})

    noise: float = 0.0
    level: Level = 0.95

    @property
    @abstractmethod
    def releases(self) -> int:
        """How many sums with noise the answer takes: so often the mechanism is charged."""

    @property
    @abstractmethod
    def reach(self) -> float:
        """The longest that a patient's part may be (L2)."""

    @abstractmethod
    def parts(self, values: Values, rows: Frame) -> Floats:
        """Each patient's part ``(patients, m)``; longer ones are shortened."""

    def look(self, values: Values) -> None:
        """At what the coordinator sent, before the data are touched. Raises BadUpdate unless every patient's part is finite whatever the data hold:
        a site that fails because of one patient's value tells of that patient without noise."""

    def read(self, frame: Frame) -> Frame:
        """One row of each patient."""
        _, first = np.unique(frame.patients, return_index=True)
        return frame.at(np.sort(first))

    def start(self) -> Values:
        return {}

    def sums(self, values: Values, frame: Frame, round_number: int) -> Values:
        self.look(values)
        rows = self.read(frame)
        told = self.parts(values, rows.at(np.zeros(len(rows), bool))).sum(axis=0)
        for start in range(0, len(rows), _BLOCK):
            made = self.parts(values, rows.at(np.arange(start, min(start + _BLOCK, len(rows)))))
            lengths = np.maximum(np.linalg.norm(made, axis=1, keepdims=True), self.reach)
            told = told + (made / lengths).sum(axis=0)
        return {NOISY: told, "sites": np.array([float(len(rows) > 0)])}

    def noised(self, sums: Mapping[str, NumpyArray], source: SecureBytes) -> dict[str, NumpyArray]:
        """The sums as they may leave."""
        clear = np.asarray(sums[NOISY], np.float64)
        return {**sums, NOISY: clear + drawn(source, self.noise, clear.size).reshape(clear.shape)}

    def spread(self, values: Values) -> float:
        """Standard deviation of the noise in the sum over all sites, in the units of `parts`."""
        return float(self.noise * self.reach * np.sqrt(values["sites"][0]))

    def unbounded(self, features: Sequence[Feature]) -> Iterator[str]:
        """What is wrong with a question whose numbers have no range, or whose formula has more than columns."""
        formula = self.parsed
        yield from (f"{self.name} knows no {role}()" for role in ROLES if getattr(formula, role))
        if any(len(term) > 1 or term[0].function for term in formula.terms) or any(one.function for one in formula.response):
            yield f"{self.name} takes columns as they are, without functions and interactions"
        used = set(formula.columns)
        for feature in features:
            if feature.name not in used or feature.categories:
                continue
            if feature.minimum is None or feature.maximum is None or not 0 < Range.of(feature).half < np.inf:
                needs = "needs a `minimum` and a `maximum` in `cohort.features`"
                yield f"{feature.name} {needs}: without a range one patient may change a sum by any amount"


@final
@dataclass(frozen=True, slots=True)
class Range:
    """A number's public range, brought to −1 to 1."""

    middle: float
    half: float

    @classmethod
    def of(cls, feature: Feature) -> Range:
        assert feature.minimum is not None and feature.maximum is not None
        return cls((feature.minimum + feature.maximum) / 2, (feature.maximum - feature.minimum) / 2)

    def scaled(self, values: Floats) -> Floats:
        return np.clip((values - self.middle) / self.half, -1.0, 1.0)
