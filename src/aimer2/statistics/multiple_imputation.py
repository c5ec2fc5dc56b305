"""One answer from the same analysis of several imputed data sets: Rubin's rules.

Hospitals impute their own patients' missing values several times, each time into columns of their own; a study asks the same question of each set
of columns, and the tables that come back are pooled here. Imputing is the hospital's: nothing of it leaves but the sums of the analyses.

Papers: D. B. Rubin, "Multiple Imputation for Nonresponse in Surveys" (1987), section 3.1; J. Barnard, D. B. Rubin, "Small-sample degrees of freedom
with multiple imputation", Biometrika 86 (1999).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
from numpy.typing import ArrayLike

from aimer2.core.errors import BadInput
from aimer2.core.table import Cell, Table, number
from aimer2.statistics.significance import standardised, symmetric

COLUMNS = ("term", "estimate", "standard_error", "low", "high", "statistic", "freedom", "p", "missing_information")


@final
class Pooled(NamedTuple):
    """``missing_information``: the share of what complete data would tell that the missing values took."""

    estimate: float
    error: float
    freedom: float
    missing_information: float


def combine(estimates: ArrayLike, errors: ArrayLike, complete_freedom: float = math.inf) -> Pooled:
    """Of one term in each of the analyses; ``complete_freedom``: of its t test if nothing were missing, infinite where the test is by z.

    Raises BadInput with fewer than two analyses.
    """
    values, spreads = np.asarray(estimates, np.float64), np.asarray(errors, np.float64)
    m = len(values)
    if m < 2 or len(spreads) != m:
        raise BadInput("Rubin's rules pool two analyses at least, each with an estimate and its standard error.")
    within, between = float((spreads**2).mean()), float(values.var(ddof=1))
    surplus = (1 + 1 / m) * between
    total = within + surplus
    share = surplus / total if total > 0 else 0.0
    by_imputations = (m - 1) / share**2 if share > 0 else math.inf
    observed = (complete_freedom + 1) / (complete_freedom + 3) * complete_freedom * (1 - share) if math.isfinite(complete_freedom) else math.inf
    rarity = 1 / by_imputations + 1 / observed if observed > 0 else math.inf
    freedom = 1 / rarity if rarity > 0 else math.inf
    ratio = surplus / within if within > 0 else math.inf
    missing = (ratio + 2 / (freedom + 3)) / (ratio + 1) if math.isfinite(ratio) else 1.0
    return Pooled(float(values.mean()), math.sqrt(total), freedom, missing if share > 0 else 0.0)


def pool(tables: Sequence[Table], level: float = 0.95) -> Table:
    """Of tables with the columns term, estimate and standard_error, one from each imputed data set and all of the same terms.

    Degrees of freedom of the complete data are the fact ``residual_freedom`` of the first, where it has one. Raises BadInput where the tables differ,
    or one lacks those columns.
    """
    named = [[str(row[table.columns.index("term")]) for row in table.rows] for table in tables if {"term", *COLUMNS[1:3]} <= set(table.columns)]
    if len(named) < max(len(tables), 2) or any(one != named[0] for one in named):
        raise BadInput("Rubin's rules pool two tables at least, with term, estimate and standard_error, of the same terms in the same order.")
    known = tables[0].facts.get("residual_freedom")
    complete = float(known) if isinstance(known, int | float) else math.inf
    rows: list[tuple[Cell, ...]] = []
    for place, term in enumerate(named[0]):
        pairs = [(table.rows[place][table.columns.index("estimate")], table.rows[place][table.columns.index("standard_error")]) for table in tables]
        if not all(isinstance(one, int | float) for pair in pairs for one in pair):
            rows.append((term, *(None,) * (len(COLUMNS) - 1)))
            continue
        estimates, errors = np.array(pairs, np.float64).T
        found = combine(estimates, errors, complete)
        effect = symmetric(found.estimate, found.error, level, found.freedom)
        test = standardised(found.estimate / found.error, found.freedom) if found.error > 0 else None
        tested = (number(test.statistic), number(found.freedom), number(test.p)) if test else (None, None, None)
        rows.append((term, effect.estimate, effect.error, effect.low, effect.high, *tested, found.missing_information))
    first = tables[0]
    facts: dict[str, Cell] = {"imputations": len(tables), "level": level}
    return Table(analysis=first.analysis, method=first.method, title="Pooled over imputations", columns=COLUMNS, rows=tuple(rows), facts=facts)
