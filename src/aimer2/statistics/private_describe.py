"""Counts, means, histograms and quantiles under differential privacy, with intervals that hold the noise.

``~ age + C(sex)``. Of each number: how many have it, its sum, its squares (about the middle of its range) and a histogram; of each category how
many have it; all with Gaussian noise, in one round. A mean is the noisy sum over the noisy count, its error by the delta method from both noises and
from the patients' spread; a quantile lies between the edges at which the noisy counts below differ from what the quantile says by less than noise and
sampling do, looked at from either end, so that the interval holds at least its level; counts' intervals hold the noise alone, shares' also sampling.

Papers: C. Dwork, A. Roth, "The Algorithmic Foundations of Differential Privacy" (2014), theorem A.1; V. Karwa, S. Vadhan, "Finite sample
differentially private confidence intervals", ITCS (2018), for quantiles of noisy histograms.

Leaves the site: ``parts`` = with noise, per number how many have it, sums of values and squares, per bin how many; per category how many; ``sites``
= 1 where there is any row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, final

import numpy as np
from pydantic import Field

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.study import Feature
from aimer2.core.table import Cell, Table
from aimer2.statistics.private import NOISY, AbstractPrivate, Floats, Range
from aimer2.statistics.significance import quantile, symmetric
from aimer2.statistics.statistic import Values


@final
@dataclass(frozen=True, kw_only=True)
class PrivateDescribe(AbstractPrivate):
    """``bins`` of each histogram; ``quantiles``: shares, found to about a bin."""

    bins: Annotated[int, Field(ge=2, le=200)] = 20
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.25, 0.5, 0.75)

    def faults(self) -> Iterator[str]:
        yield from self.unbounded(self.features)
        if self.parsed.response or not self.parsed.terms:
            yield "private_describe names columns alone: write '~ age + sex'"

    def against(self, frame: Frame, disclosure: Disclosure, *, secure: bool) -> Iterator[str]:
        """No more than that: what noise covers needs no limit, and a limit that looks at values would tell of them."""
        yield from super().against(frame, disclosure, secure=secure)

    @property
    def releases(self) -> int:
        return 1

    @property
    def reach(self) -> float:
        """Of each number 1 for being there, 1 for its value, 1 for its square, 1 for its bin; of each category 1."""
        return float(np.sqrt(4 * len(self._numbers) + len(self._categories)))

    @property
    def _columns(self) -> list[Feature]:
        listed = {feature.name: feature for feature in self.features}
        return [listed[name] for name in dict.fromkeys(term[0].name for term in self.parsed.terms)]

    @property
    def _numbers(self) -> list[Feature]:
        return [feature for feature in self._columns if not feature.categories]

    @property
    def _categories(self) -> list[Feature]:
        return [feature for feature in self._columns if feature.categories]

    def parts(self, values: Values, rows: Frame) -> Floats:
        made = [np.zeros((len(rows), 0))]
        for feature in self._numbers:
            column = rows.columns[feature.name]
            there = ~np.isnan(column)
            u = np.where(there, Range.of(feature).scaled(np.where(there, column, 0.0)), 0.0)
            place = np.minimum(((u + 1) / 2 * self.bins).astype(np.int64), self.bins - 1)
            made += [there[:, None], u[:, None], (u**2)[:, None], np.eye(self.bins)[place] * there[:, None]]
        for feature in self._categories:
            made.append(np.equal.outer(rows.columns[feature.name], np.arange(len(feature.categories))))
        return np.concatenate(made, axis=1).astype(np.float64)

    def step(self, values: Values, total: Values, round_number: int) -> tuple[Values, bool]:
        return {"sites": total["sites"], "told": total[NOISY] * self.reach}, True

    def tables(self, name: str, values: Values) -> Sequence[Table]:
        noise, told, place = self.spread(values), values["told"], 0
        means: list[tuple[Cell, ...]] = []
        cuts: list[tuple[Cell, ...]] = []
        bars: list[tuple[Cell, ...]] = []
        for feature in self._numbers:
            own = told[place : place + 3 + self.bins]
            place += 3 + self.bins
            means.append((feature.name, *self._mean(Range.of(feature), own, noise)))
            cuts += [(feature.name, share, *self._quantile(Range.of(feature), own[3:], share, noise)) for share in self.quantiles]
            bars += self._bars(feature, own[3:], noise)
        counts: list[tuple[Cell, ...]] = []
        for feature in self._categories:
            counts += self._counts(feature, told[place : place + len(feature.categories)], noise)
            place += len(feature.categories)
        limits = ("low", "high")
        made = (
            ("Means", ("column", "count", "count_low", "count_high", "mean", "standard_error", *limits, "standard_deviation"), means),
            ("Quantiles", ("column", "share", "estimate", *limits), cuts),
            ("Histogram", ("column", "from", "to", "count", *limits), bars),
            ("Categories", ("column", "category", "count", "count_low", "count_high", "share", *limits), counts),
        )
        facts: dict[str, Cell] = {"sites": int(values["sites"][0]), "noise": noise, "level": self.level}
        note = "Noise: the standard deviation of what was added to each count, over all sites. Every interval holds it."
        return [
            Table(analysis=name, method=self.name, title=title, columns=columns, rows=tuple(rows), facts=facts, notes=(note,))
            for title, columns, rows in made
            if rows
        ]

    def _mean(self, scale: Range, own: Floats, noise: float) -> tuple[Cell, ...]:
        count = max(float(own[0]), 1.0)
        centre = float(np.clip(own[1] / count, -1, 1))
        variance = float(np.clip(own[2] / count - centre**2, 0, 1))
        error = scale.half * float(np.sqrt(variance / count + noise**2 * (1 + centre**2) / count**2))
        mean = symmetric(scale.middle + scale.half * centre, error, self.level)
        known = symmetric(float(own[0]), noise, self.level)
        return known.estimate, known.low, known.high, *mean, scale.half * float(np.sqrt(variance))

    def _quantile(self, scale: Range, bins: Floats, share: float, noise: float) -> tuple[Cell, ...]:
        edges = scale.middle + scale.half * np.linspace(-1, 1, len(bins) + 1)
        below = np.concatenate([[0.0], np.cumsum(bins)])
        count, number = max(float(below[-1]), 1.0), np.arange(len(edges))
        distance = below - share * below[-1]
        variance = noise**2 * ((1 - share) ** 2 * number + share**2 * (len(bins) - number)) + count * share * (1 - share)
        far = quantile(self.level) * np.sqrt(variance)
        low = int(np.argmin(np.append(distance < -far, False)))
        high = int(np.argmin(np.append((distance > far)[::-1], False)))
        rising = (np.maximum.accumulate(below) + np.minimum.accumulate(below[::-1])[::-1]) / 2
        estimate = float(np.interp(share * rising[-1], rising, edges))
        return estimate, float(edges[max(low - 1, 0)]), float(edges[::-1][max(high - 1, 0)])

    def _bars(self, feature: Feature, bins: Floats, noise: float) -> Iterator[tuple[Cell, ...]]:
        scale = Range.of(feature)
        edges = scale.middle + scale.half * np.linspace(-1, 1, len(bins) + 1)
        for place, count in enumerate(bins):
            told = symmetric(float(count), noise, self.level)
            yield feature.name, float(edges[place]), float(edges[place + 1]), told.estimate, told.low, told.high

    def _counts(self, feature: Feature, counts: Floats, noise: float) -> Iterator[tuple[Cell, ...]]:
        whole = max(float(counts.sum()), 1.0)
        for level, count in zip(feature.categories, counts, strict=True):
            told = symmetric(float(count), noise, self.level)
            part = float(np.clip(count / whole, 0, 1))
            # of a ratio of two noisy numbers, the whole being the sum of all counts
            noisy = noise**2 * ((1 - part) ** 2 + part**2 * (len(counts) - 1)) / whole**2
            share = symmetric(part, float(np.sqrt(part * (1 - part) / whole + noisy)), self.level)
            yield feature.name, level, told.estimate, told.low, told.high, part, share.low, share.high


EXAMPLE = PrivateDescribe(
    formula="~ x + g",
    features=(Feature(name="x", minimum=0, maximum=20), Feature(name="g", kind="category", categories=("a", "b"))),
)
