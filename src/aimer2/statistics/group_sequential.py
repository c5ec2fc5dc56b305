"""Looking at a trial before its end without losing the level: boundaries by spending functions.

Each look is a study of its own, approved by the hospitals. It states how much information the trial plans (patients, or events) and what earlier
looks saw; what this look sees is counted. The chance of error spent by then is a function of the share of information, and the boundary is the
value of |z| that spends what is new, given that no earlier look crossed its own (two-sided, symmetric; what was spent stays spent).

Papers: K. K. G. Lan, D. L. DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 70 (1983), for the spending functions after
P. C. O'Brien, T. R. Fleming, Biometrics 35 (1979), and S. J. Pocock, Biometrika 64 (1977), each half of the level to either side;
P. Armitage, C. K. McPherson, B. C. Rowe, "Repeated significance tests on accumulating data", JRSS A 132 (1969), for the integration;
C. Jennison, B. W. Turnbull, "Group Sequential Methods" (2000), chapter 9, for repeated confidence intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Annotated, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from aimer2.core.table import Table, number
from aimer2.statistics import distributions
from aimer2.statistics.comparison import AbstractComparison
from aimer2.statistics.significance import Effect

Floats = NDArray[np.float64]
Spending: TypeAlias = Literal["obrien_fleming", "pocock"]

NODES = 320
HIGHEST = 12.0


def spent(fraction: float, alpha: float, spending: Spending) -> float:
    """How much of the two-sided level is spent by this share of the information; all of it from 1 on."""
    share = min(fraction, 1.0)
    if share <= 0:
        return 0.0
    if spending == "pocock":
        return alpha * math.log1p((math.e - 1) * share)
    return float(4 * distributions.normal_below(-distributions.normal_quantile(1 - alpha / 4) / math.sqrt(share)))


def boundaries(information: Sequence[float], levels: Sequence[float]) -> tuple[float, ...]:
    """The |z| to cross at each look, from the information at each (any unit) and the level spent by then; infinite where nothing new is spent."""
    found: list[float] = []
    nodes, weights = _gauss()
    points, density = np.zeros(1), np.ones(1)
    before = seen = 0.0
    for look, level in zip(information, levels, strict=True):
        step = math.sqrt(look - before)
        beyond = partial(_beyond, end=math.sqrt(look), step=step, points=points, density=density, wanted=level - seen)
        if level <= seen or beyond(HIGHEST) >= 0:
            bound, reach = math.inf, HIGHEST
        else:
            bound = reach = distributions.root(beyond, 0.0, HIGHEST, 1e-10)
        found.append(bound)
        end = reach * math.sqrt(look)
        following = end * nodes
        kernel = np.exp(-(((following[:, None] - points) / step) ** 2) / 2) / (step * math.sqrt(2 * math.pi))
        density = (kernel @ density) * end * weights
        points, before, seen = following, look, max(level, seen)
    return tuple(found)


def _beyond(z: float, *, end: float, step: float, points: Floats, density: Floats, wanted: float) -> float:
    """The chance to be inside before and beyond ±z now, above what is ``wanted``; the process is Brownian motion over information."""
    inside = distributions.normal_below(-(z * end - points) / step) + distributions.normal_below(-(z * end + points) / step)
    return float(density @ inside) - wanted


@cache
def _gauss() -> tuple[Floats, Floats]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return nodes, weights


@dataclass(frozen=True, kw_only=True)
class AbstractLook(AbstractComparison):
    """A comparison that may be one look of several.

    ``planned``: patients, or events of a survival trial, at the end; 0: no looks. ``earlier``: how many earlier looks had. ``last``: spend all that
    is left, however many there are. ``alpha``: the two-sided level of the whole trial.
    """

    planned: Annotated[float, Field(ge=0)] = 0.0
    earlier: tuple[Annotated[float, Field(gt=0)], ...] = ()
    last: bool = False
    spending: Spending = "obrien_fleming"
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if self.earlier and not self.planned:
            yield "earlier looks need `planned`, the information at the end"
        if any(later <= one for one, later in zip(self.earlier, self.earlier[1:], strict=False)):
            yield "each of the `earlier` looks had more than the one before"
        if self.planned and len(self.levels) != 2:
            yield "looks are for comparisons of two groups"

    def look(self, name: str, z: float, seen: float, effect: Effect | None = None) -> Iterator[Table]:
        """What this look says: ``seen`` patients or events, the standardised statistic, and the effect that it belongs to."""
        if not self.planned:
            return
        columns = ("look", "seen", "fraction", "spent", "boundary", "nominal_p", "z", "crossed")
        if self.earlier and seen <= self.earlier[-1]:
            note = "There is no more information than at the last look, so this is none."
            yield Table(analysis=name, method=self.name, title="Look", columns=columns, rows=(), notes=(note,))
            return
        information = (*self.earlier, seen)
        fractions = [one / self.planned for one in information]
        levels = [spent(one, self.alpha, self.spending) for one in fractions]
        if self.last:
            levels[-1] = self.alpha
        bounds = boundaries(information, levels)
        rows = []
        for place, bound in enumerate(bounds):
            is_this = place == len(bounds) - 1
            nominal = float(distributions.normal_two_sided(bound))
            crossed = ("yes" if abs(z) >= bound else "no") if is_this else None
            rows.append((place + 1, information[place], fractions[place], levels[place], number(bound), nominal, z if is_this else None, crossed))
        shown: dict[str, str | float | int | None] = {"spending": self.spending.replace("_", "-"), "alpha": self.alpha, "planned": self.planned}
        if effect is not None and math.isfinite(bounds[-1]):
            half = bounds[-1] * effect.error
            shown |= {"repeated_interval_low": effect.estimate - half, "repeated_interval_high": effect.estimate + half}
        yield Table(analysis=name, method=self.name, title="Look", columns=columns, rows=tuple(rows), facts=shown)


def as_normal(statistic: float, p: float) -> float:
    """The standard normal value with the statistic's sign and two-sided p-value."""
    return math.copysign(min(float(-distributions.normal_quantile(p / 2)), 40.0), statistic) if p > 0 else math.copysign(40.0, statistic)
