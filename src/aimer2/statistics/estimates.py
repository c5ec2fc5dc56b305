"""From a fitted regression to the table that a statistician reads: estimates, standard errors, tests, intervals; and what must be said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

from aimer2.core.table import Cell, Table, number
from aimer2.statistics import distributions

Floats = NDArray[np.float64]

COLUMNS = ("term", "estimate", "standard_error", "statistic", "p", "low", "high")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Coefficients ``(p,)`` with their covariance ``(p, p)``; of a term that is ``aliased`` both are without meaning. ``freedom``: of t; None: z."""

    names: tuple[str, ...]
    estimates: Floats
    covariance: Floats
    aliased: NDArray[np.bool_]
    freedom: float | None
    level: float
    ratio: str = ""
    """What e to the estimate is: `odds_ratio`, `rate_ratio`, `hazard_ratio`; empty: nothing of interest."""


Errors = Literal["model", "robust", "patients", "sites"]
"""Of the model; or a sandwich over rows, over patients (each with all rows), over whole sites."""


def meat(part: Floats, errors: Errors, patients: NDArray[np.uint64]) -> Floats:
    """Σ uuᵀ ``(p, p)`` over sums u of what each row adds to the score ``(n, p)``: of rows, of patients or of the site."""
    if errors == "sites":
        part = part.sum(axis=0, keepdims=True)
    elif errors == "patients":
        known, place = np.unique(patients, return_inverse=True)
        whole = np.zeros((len(known), part.shape[1]))
        np.add.at(whole, place, part)
        part = whole
    return part.T @ part


def coefficients(fit: Fit, *, analysis: str, method: str, facts: Mapping[str, Cell], notes: Sequence[str]) -> Table:
    """One row per term; a term that follows from others has no estimate, and a note names it."""
    columns = COLUMNS + ((fit.ratio, f"{fit.ratio}_low", f"{fit.ratio}_high") if fit.ratio else ())
    rows = tuple(_row(fit, place) for place in range(len(fit.names)))
    return Table(analysis=analysis, method=method, title="Coefficients", columns=columns, rows=rows, facts=facts, notes=tuple(notes))


def _row(fit: Fit, place: int) -> tuple[Cell, ...]:
    if fit.aliased[place]:
        return (fit.names[place],) + (None,) * (len(COLUMNS) - 1 + (3 if fit.ratio else 0))
    estimate, error = fit.estimates[place], np.sqrt(max(fit.covariance[place, place], 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = estimate / error
    if fit.freedom is None:
        p, wide = distributions.normal_two_sided(statistic), distributions.normal_quantile(0.5 + fit.level / 2)
    else:
        p, wide = distributions.student_two_sided(statistic, fit.freedom), distributions.student_quantile(0.5 + fit.level / 2, fit.freedom)
    low, high = estimate - wide * error, estimate + wide * error
    cells = [estimate, error, statistic, p, low, high]
    if fit.ratio:
        with np.errstate(over="ignore"):
            cells += [np.exp(estimate), np.exp(low), np.exp(high)]
    return (fit.names[place], *(number(float(cell)) for cell in cells))


def independent(information: Floats, tolerance: float = 1e-10) -> NDArray[np.bool_]:
    """Which columns do not follow from those before them ``(p,)``: Gaussian elimination without exchange, as R leaves later columns out."""
    left, size = information.copy(), np.diag(information).copy()
    kept = np.zeros(len(left), bool)
    for place in range(len(left)):
        pivot = left[place, place]
        if pivot <= tolerance * size[place] or size[place] <= 0:
            continue
        kept[place] = True
        left = left - np.outer(left[:, place], left[place]) / pivot
    return kept


def inverse(information: Floats, kept: NDArray[np.bool_]) -> Floats:
    """The inverse over the kept columns, 0 elsewhere; where it is singular all the same, a generalised one."""
    whole = np.zeros_like(information)
    inner = information[np.ix_(kept, kept)]
    size = np.sqrt(np.maximum(np.diag(inner), np.finfo(np.float64).tiny))
    # an equilibrated matrix loses no digit to units
    scaled = inner / np.outer(size, size)
    try:
        found = np.linalg.inv(scaled)
    except np.linalg.LinAlgError:
        found = np.linalg.pinv(scaled, hermitian=True)
    whole[np.ix_(kept, kept)] = found / np.outer(size, size)
    return whole


def proximal_step(curved: Floats, score: Floats, beta: Floats, cost: Floats, sweeps: int = 10_000) -> Floats:
    """The step d ``(p,)`` that minimises d·curved·d/2 − score·d + Σ cost·|β + d|: sweeps of coordinate descent find which coefficients are not 0, and
    once these are right one system of equations gives them."""
    size = np.diag(curved)
    pull = score + curved @ beta
    found, slope = np.where(size > 0, beta, 0.0), pull - curved @ np.where(size > 0, beta, 0.0)
    for sweep in range(sweeps):
        before = found.copy()
        for place in np.flatnonzero(size > 0):
            wanted = size[place] * found[place] + slope[place]
            shrunk = np.sign(wanted) * max(abs(wanted) - cost[place], 0.0) / size[place]
            slope = slope - curved[:, place] * (shrunk - found[place])
            found[place] = shrunk
        exact = _at_signs(curved, pull, np.sign(found), cost) if sweep % 5 == 0 else None
        if exact is not None:
            return np.asarray(exact - beta)
        if (before == found).all():
            break
    return np.asarray(found - beta)


def _at_signs(curved: Floats, pull: Floats, signs: Floats, cost: Floats) -> Floats | None:
    """The minimum if its coefficients have these signs; None where they have others."""
    active = (signs != 0) & (np.diag(curved) > 0)
    found = np.zeros(len(pull))
    found[active] = inverse(curved, active)[np.ix_(active, active)] @ (pull - cost * signs)[active]
    rest = pull - curved @ found
    is_right = (np.sign(found[cost > 0]) == signs[cost > 0]).all() and (np.abs(rest[~active]) <= cost[~active] * (1 + 1e-12)).all()
    return found if is_right else None


@final
@dataclass(frozen=True, slots=True)
class Scale:
    """Columns about their mean and in units of their spread, so that no sum loses digits to a column's place or unit. ``has_intercept``: the first
    column is it."""

    centre: Floats
    spread: Floats
    has_intercept: bool

    @classmethod
    def of(cls, weight: float, sums: Floats, squares: Floats, *, has_intercept: bool, centred: bool) -> Scale:
        """From Σw, Σwx, Σwx² per column. ``centred``: the model does not change when a column is moved."""
        mean = sums / max(weight, np.finfo(np.float64).tiny)
        centre = mean if centred else np.zeros_like(mean)
        around = squares / max(weight, np.finfo(np.float64).tiny) - centre**2
        # Where the mean dwarfs the spread the difference is rounding: then the unit is coarse, and that costs nothing.
        spread = np.sqrt(np.maximum(around, 1e-14 * squares / max(weight, np.finfo(np.float64).tiny)))
        spread[spread == 0] = 1.0
        if has_intercept:
            centre[0], spread[0] = 0.0, 1.0
        return cls(centre, spread, has_intercept)

    def apply(self, matrix: Floats) -> Floats:
        return (matrix - self.centre) / self.spread

    @property
    def back(self) -> Floats:
        """From coefficients of scaled columns to those of the columns themselves ``(p, p)``."""
        matrix = np.diag(1 / self.spread)
        if self.has_intercept:
            matrix[0, 1:] = -self.centre[1:] / self.spread[1:]
        return matrix
