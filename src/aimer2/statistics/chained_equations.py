"""Missing values of a table filled in several times by chained equations, each time as they could well have been.

S. van Buuren, K. Groothuis-Oudshoorn, "mice: Multivariate Imputation by Chained Equations in R", Journal of Statistical Software 45 (2011): missing
values begin as draws from the values there are; then, ``cycles`` times over, each column in turn is regressed on all others where it is known, and
its missing values are drawn anew, with coefficients drawn from their own distribution. A number takes the value of one of the five patients whose
predictions are nearest (predictive mean matching: R. J. A. Little, JBES 6 (1988); D. B. Rubin, "Multiple Imputation for Nonresponse in Surveys"
(1987), section 5.3); a category is drawn with the chances of a multinomial logistic regression, whose likelihood has a little of a ridge, so that
separation has an estimate too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DONORS = 5
_RIDGE = 1e-5
_LITTLE = 0.1
_STEPS = 25


@final
@dataclass(frozen=True, slots=True)
class Incomplete:
    """Columns ``(n,)`` by name, NaN where missing; of categories their codes, and in ``levels`` how many there are. ``beside``: what is known of
    every row besides ``(n, k)``, on which they are regressed too. ``limits``: between which numbers are, None where there is no limit."""

    columns: Mapping[str, Floats]
    levels: Mapping[str, int]
    beside: Floats
    limits: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)

    @property
    def missing(self) -> Sequence[str]:
        """The columns with missing values, that with the fewest first."""
        count = {name: int(np.isnan(values).sum()) for name, values in self.columns.items()}
        return sorted((name for name, many in count.items() if many), key=lambda name: (count[name], name))

    def regressors(self, name: str, filled: Mapping[str, Floats]) -> Floats:
        """Intercept, all other columns and what is beside ``(n, p)``, in units of their spread; none that does not vary."""
        parts = [self.beside]
        for other, values in filled.items():
            if other != name:
                codes = np.arange(1, self.levels[other]) if other in self.levels else None
                parts.append(values[:, None] if codes is None else np.equal.outer(values, codes).astype(np.float64))
        whole = np.concatenate(parts, axis=1)
        spread = whole.std(axis=0)
        kept = spread > 0
        return np.column_stack([np.ones(len(whole)), (whole[:, kept] - whole[:, kept].mean(axis=0)) / spread[kept]])


def completed(table: Incomplete, cycles: int, rng: np.random.Generator, *, matched: bool = True) -> dict[str, Floats]:
    """The columns without missing values; ``matched``: numbers are values that somebody has, else within the limits. A column of which nothing is
    known cannot be."""
    filled = {name: values.copy() for name, values in table.columns.items()}
    gaps = {name: np.isnan(table.columns[name]) for name in table.missing}
    for name, gap in gaps.items():
        filled[name][gap] = rng.choice(filled[name][~gap], int(gap.sum()))
    for _ in range(cycles if gaps else 0):
        for name, gap in gaps.items():
            matrix = table.regressors(name, filled)
            known, values, wanted = matrix[~gap], table.columns[name][~gap], matrix[gap]
            if name in table.levels:
                filled[name][gap] = _category(known, values, wanted, rng)
            else:
                drawn = _number(known, values, wanted, rng, matched=matched)
                # a drawn value that the column cannot have takes the limit's
                filled[name][gap] = drawn if matched else _within(drawn, *table.limits.get(name, (None, None)))
    return filled


def _number(known: Floats, values: Floats, wanted: Floats, rng: np.random.Generator, *, matched: bool) -> Floats:
    """By predictive mean matching: those who have it predicted by the estimates, those who lack it by drawn coefficients. Else with a normal rest."""
    products = known.T @ known
    cover = np.linalg.inv(products + _RIDGE * np.diag(np.diag(products)))
    estimates = cover @ (known.T @ values)
    rest = values - known @ estimates
    spread = np.sqrt(rest @ rest / rng.chisquare(max(len(values) - known.shape[1], 1)))
    drawn = estimates + spread * np.linalg.cholesky(cover) @ rng.standard_normal(len(estimates))
    if not matched:
        return np.asarray(wanted @ drawn + spread * rng.standard_normal(len(wanted)))
    return values[_donors(known @ estimates, wanted @ drawn, rng)]


def _within(values: Floats, low: float | None, high: float | None) -> Floats:
    return np.clip(values, -np.inf if low is None else low, np.inf if high is None else high)


def _donors(predicted: Floats, wanted: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
    """For each wanted prediction one of those who are nearest to it."""
    # who have the same prediction stand in an order of chance
    order = np.lexsort([rng.random(len(predicted)), predicted])
    place = np.searchsorted(predicted[order], wanted)
    about = np.clip(place[:, None] + np.arange(-DONORS, DONORS), 0, len(order) - 1)
    far = np.abs(predicted[order][about] - wanted[:, None])
    # at an end of the line the same patient stands in several places
    far[:, 1:][about[:, 1:] == about[:, :-1]] = np.inf
    nearest = np.argsort(far, axis=1, kind="stable")
    among = rng.integers(0, np.minimum(np.isfinite(far).sum(axis=1), DONORS))
    rows = np.arange(len(wanted))
    return np.asarray(order[about[rows, nearest[rows, among]]])


def _category(known: Floats, values: Floats, wanted: Floats, rng: np.random.Generator) -> Floats:
    """Drawn with the chances of a multinomial logistic regression with drawn coefficients, of those categories that anybody has."""
    levels, code = np.unique(values, return_inverse=True)
    if len(levels) == 1:
        return np.full(len(wanted), levels[0])
    width, others = known.shape[1], len(levels) - 1
    there = np.eye(len(levels))[code][:, 1:]
    beta = np.zeros((others, width))
    for _ in range(_STEPS):
        chance = _chances(known, beta)[:, 1:]
        score = ((there - chance).T @ known - _LITTLE * beta).ravel()
        blocks = [[known.T @ (known * (chance[:, a] * ((a == b) - chance[:, b]))[:, None]) for b in range(others)] for a in range(others)]
        curved = np.block(blocks) + _LITTLE * np.eye(others * width)
        move = np.linalg.solve(curved, score)
        beta = beta + move.reshape(others, width)
        if float(move @ score) < 1e-8:
            break
    drawn = beta + np.linalg.solve(np.linalg.cholesky(curved).T, rng.standard_normal(others * width)).reshape(others, width)
    below = np.cumsum(_chances(wanted, drawn), axis=1)
    return np.asarray(levels[np.minimum((rng.random(len(wanted))[:, None] > below).sum(axis=1), others)])


def _chances(matrix: Floats, beta: Floats) -> Floats:
    """Of each row's categories ``(n, levels)``, the first being the reference."""
    eta = np.column_stack([np.zeros(len(matrix)), matrix @ beta.T])
    risen = np.exp(eta - eta.max(axis=1, keepdims=True))
    return np.asarray(risen / risen.sum(axis=1, keepdims=True))
