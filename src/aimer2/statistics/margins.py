"""Whether an effect is better than a margin allows: non-inferiority and equivalence from an estimate and its standard error.

Papers: D. J. Schuirmann, "A comparison of the two one-sided tests procedure …", J. Pharmacokinetics and Biopharmaceutics 15 (1987);
G. Piaggio et al., "Reporting of noninferiority and equivalence randomized trials: extension of the CONSORT 2010 statement", JAMA 308 (2012).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, TypeAlias

from aimer2.core.table import Table, number
from aimer2.statistics import distributions
from aimer2.statistics.significance import Significance

Hypothesis: TypeAlias = Literal["difference", "non_inferiority", "equivalence"]


def faults(hypothesis: Hypothesis, margin: float) -> Iterator[str]:
    if (hypothesis == "difference") == (margin > 0):
        yield "the hypotheses non_inferiority and equivalence need a `margin` above 0, and no other has one"


def non_inferior(estimate: float, error: float, margin: float, freedom: float = math.inf, *, higher_is_better: bool = True) -> Significance:
    """Of the null hypothesis that the effect is worse than nothing by the margin or more; p is one-sided.

    It is rejected at level α exactly where the two-sided 1 − 2α interval keeps clear of the margin.
    """
    sign = 1.0 if higher_is_better else -1.0
    statistic = (sign * estimate + margin) / error
    return Significance(statistic, one_sided(statistic, freedom), () if math.isinf(freedom) else (freedom,))


def one_sided(statistic: float, freedom: float = math.inf) -> float:
    """The chance of so high a statistic or a higher one."""
    return float(distributions.normal_below(-statistic) if math.isinf(freedom) else distributions.student_below(-statistic, freedom))


def equivalent(estimate: float, error: float, margin: float, freedom: float = math.inf) -> Significance:
    """Of the null hypothesis that the effect is as large as the margin or larger, to either side: the larger p of the two one-sided tests."""
    return max(
        (non_inferior(estimate, error, margin, freedom, higher_is_better=better) for better in (True, False)),
        key=lambda test: test.p,
    )


def table(analysis: str, method: str, term: str, hypothesis: Hypothesis, margin: float, test: Significance) -> Table:
    """The answer; p is one-sided."""
    freedom = test.freedom[0] if test.freedom else None
    return Table(
        analysis=analysis,
        method=method,
        title=hypothesis.replace("_", "-").capitalize(),
        columns=("term", "margin", "statistic", "freedom", "p"),
        rows=((term, margin, number(test.statistic), freedom, number(test.p)),),
        notes=("p is one-sided: compare it with half of the two-sided level.",),
    )
