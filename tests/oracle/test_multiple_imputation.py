"""Rubin's rules: by hand, in their limits, and their coverage where values really are missing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from aimer2.core.errors import BadInput
from aimer2.core.study import Feature
from aimer2.core.table import Table
from aimer2.statistics.glm import Glm
from aimer2.statistics.multiple_imputation import combine, pool


def test_by_hand() -> None:
    """Estimates 1, 2, 3 with variance 4: within 4, between 1, total 4 + 4/3; λ = ¼, ν = 2/λ² = 32; with 20 of complete data
    ν_obs = 21/23 · 20 · ¾ = 13.696 and ν = 9.591 (Barnard, Rubin 1999, equations 3 and 4)."""
    found = combine([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    assert found[:3] == (2.0, pytest.approx(math.sqrt(16 / 3)), pytest.approx(32))
    assert found.missing_information == pytest.approx((1 / 3 + 2 / 35) / (4 / 3))
    assert combine([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], 20).freedom == pytest.approx(1 / (1 / 32 + 1 / (21 / 23 * 20 * 0.75)))


def test_limits() -> None:
    """Nothing missing: the analysis itself. Nothing known within: as many degrees as imputations less one."""
    assert combine([1.5] * 4, [0.3] * 4) == (1.5, pytest.approx(0.3), math.inf, 0.0)
    assert combine([1.5] * 4, [0.3] * 4, 30).freedom == pytest.approx(31 / 33 * 30)
    assert combine([1.0, 3.0, 8.0], [1e-9] * 3).freedom == pytest.approx(2)
    for few in ([], [1.0]):
        with pytest.raises(BadInput, match="two analyses"):
            combine(few, few)


def test_it_covers_the_truth_as_often_as_it_says() -> None:
    """A mean with a third of the values missing, imputed from their predictive distribution: 95 % intervals cover it in 95 % of 2,000 samples."""
    rng = np.random.default_rng(11)
    n, seen, m, covered = 60, 40, 5, 0
    for _ in range(2000):
        known = rng.normal(0, 1, seen)
        spread = np.sqrt((seen - 1) * known.var(ddof=1) / rng.chisquare(seen - 1, m))
        centre = known.mean() + spread * rng.normal(size=m) / np.sqrt(seen)
        whole = np.hstack([np.tile(known, (m, 1)), centre[:, None] + spread[:, None] * rng.normal(size=(m, n - seen))])
        found = combine(whole.mean(axis=1), whole.std(axis=1, ddof=1) / np.sqrt(n), n - 1)
        covered += abs(found.estimate) <= stats.t.ppf(0.975, found.freedom) * found.error
    assert 0.94 < covered / 2000 < 0.96


def test_regressions_of_hospitals_on_imputed_columns(ask: Any) -> None:
    """Three imputations of a column, each asked about; pooled term by term, with t of the complete data's degrees of freedom."""
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"y": rng.normal(size=120), "age": rng.normal(size=120)})
    for one in range(3):
        data[f"bmi{one}"] = data["y"] + rng.normal(size=120)
    answers = []
    for one in range(3):
        method = Glm(formula=f"y ~ age + bmi{one}", features=tuple(Feature(name=name) for name in ("y", "age", f"bmi{one}")))
        table = ask(method, [data.iloc[::2], data.iloc[1::2]]).table()
        rows = [("bmi", *row[1:]) if row[0].startswith("bmi") else row for row in table.rows]
        answers.append(table.model_copy(update={"rows": tuple(rows)}))
    found = pool(answers)
    for place, row in enumerate(found.rows):
        expected = combine([one.rows[place][1] for one in answers], [one.rows[place][2] for one in answers], 117.0)
        assert row[1:3] == expected[:2] and row[6] == expected.freedom
        assert row[7] == pytest.approx(2 * stats.t.sf(abs(expected.estimate / expected.error), expected.freedom))
    with pytest.raises(BadInput, match="of the same terms"):
        pool([answers[0], answers[1].model_copy(update={"rows": answers[1].rows[:2]})])


def test_what_cannot_be_pooled() -> None:
    bare = Table(analysis="a", method="m", title="t", columns=("term", "estimate"), rows=(("x", 1.0),))
    with pytest.raises(BadInput, match="standard_error"):
        pool([bare, bare])
    empty = Table(analysis="a", method="m", title="t", columns=("term", "estimate", "standard_error"), rows=(("x", None, None),))
    assert pool([empty, empty]).rows[0][1:] == (None,) * 8
