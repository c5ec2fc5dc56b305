"""Boundaries of looks against published ones, and their level by simulation of their definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.stats import multivariate_normal

from aimer2.core.errors import BadStudy
from aimer2.core.study import Analysis, Feature
from aimer2.statistics import catalogue
from aimer2.statistics.contingency import Contingency
from aimer2.statistics.group_sequential import Spending, boundaries, spent
from aimer2.statistics.log_rank import LogRank
from aimer2.statistics.t_test import TTest

# Two-sided 5 %, equally spaced: Reboussin, DeMets, Kim, Lan, "Computations for group sequential boundaries using the Lan-DeMets spending
# function method", Controlled Clinical Trials 21 (2000); gsDesign's sfLDOF and sfLDPocock at one-sided 2.5 % agree to these digits.
PUBLISHED: list[tuple[Spending, tuple[float, ...]]] = [
    ("obrien_fleming", (2.963, 1.969)),
    ("obrien_fleming", (3.710, 2.511, 1.993)),
    ("obrien_fleming", (4.877, 3.357, 2.680, 2.290, 2.031)),
    ("pocock", (2.438, 2.427, 2.410, 2.397, 2.386)),
]


@pytest.mark.parametrize(("spending", "published"), PUBLISHED)
def test_published_boundaries(spending: Spending, published: tuple[float, ...]) -> None:
    looks = np.arange(1, len(published) + 1) / len(published)
    found = boundaries(looks.tolist(), [spent(look, 0.05, spending) for look in looks])
    np.testing.assert_allclose(found, published, atol=6e-4)


def test_classical_boundaries_have_their_level() -> None:
    """O'Brien and Fleming's own constant for five looks, 2.040 (Jennison and Turnbull 2000, table 2.3), and Pocock's 2.413 (table 2.1) spend 5 %: the
    boundaries found from what they spend, look by look, are they."""
    looks = np.arange(1, 6) / 5
    for z in (2.040 / np.sqrt(looks), np.full(5, 2.413)):
        levels = [1 - crossing_free(looks[: k + 1], z[: k + 1]) for k in range(5)]
        assert levels[-1] == pytest.approx(0.05, abs=2e-4)
        np.testing.assert_allclose(boundaries(looks.tolist(), levels), z, atol=2e-3)


def crossing_free(looks: Any, z: Any) -> float:
    """The chance that |Z| stays inside at all looks, by scipy's multivariate normal."""
    correlation = np.sqrt(np.minimum.outer(looks, looks) / np.maximum.outer(looks, looks))
    return float(multivariate_normal(cov=correlation, seed=1, abseps=2e-5).cdf(z, lower_limit=-z))


def test_unequal_looks_and_other_units() -> None:
    """Boundaries depend on shares only; one look is the fixed trial; a look at which nothing new is spent has none."""
    levels = [0.001, 0.01, 0.05]
    assert boundaries([10, 37, 90], levels) == pytest.approx(boundaries([1 / 9, 37 / 90, 1], levels), rel=1e-8)
    assert crossing_free(np.array([10, 37, 90]) / 90, np.array(boundaries([10, 37, 90], levels))) == pytest.approx(0.95, abs=6e-5)
    assert boundaries([50.0], [0.05]) == (pytest.approx(stats.norm.ppf(0.975)),)
    assert boundaries([0.5, 0.6, 1.0], [0.02, 0.02, 0.05])[1] == math.inf
    assert spent(1.7, 0.05, "pocock") == spent(1.0, 0.05, "pocock") == pytest.approx(0.05)
    assert spent(1.0, 0.05, "obrien_fleming") == pytest.approx(0.05)


@pytest.fixture
def trial() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    arm = rng.choice(["a", "b"], 120)
    outcome = rng.normal(size=120) + (arm == "b") * 0.8
    return pd.DataFrame(
        {"arm": arm, "y": outcome, "good": (outcome > 0.5).astype(float), "t": np.exp(outcome), "e": (rng.random(120) < 0.7).astype(float)}
    )


ARM = Feature(name="arm", kind="category", categories=("a", "b"))


def test_a_second_look_at_means(trial: pd.DataFrame, ask: Any) -> None:
    method = TTest(formula="y ~ arm", features=(Feature(name="y"), ARM), planned=200, earlier=(60.0,))
    found = ask(method, [trial.iloc[::2], trial.iloc[1::2]])
    look, test = found.table("Look"), found.frame("Welch's t test").iloc[0]
    bounds = boundaries([0.3, 0.6], [spent(0.3, 0.05, "obrien_fleming"), spent(0.6, 0.05, "obrien_fleming")])
    assert [row[4] for row in look.rows] == pytest.approx(bounds)
    z = stats.norm.isf(test["p"] / 2)
    assert look.rows[-1][6:] == (pytest.approx(z), "yes" if z > bounds[1] else "no")
    assert look.facts["repeated_interval_low"] == pytest.approx(test["estimate"] - bounds[1] * test["standard_error"])


def test_the_last_look_spends_what_is_left(trial: pd.DataFrame, ask: Any) -> None:
    method = Contingency(formula="good ~ arm", features=(Feature(name="good"), ARM), planned=200, earlier=(60.0,), last=True)
    row = ask(method, [trial]).table("Look").rows[-1]
    assert row[3] == 0.05 and row[4] == pytest.approx(boundaries([60, 120], [spent(0.3, 0.05, "obrien_fleming"), 0.05])[1])
    table = pd.crosstab(trial["arm"], trial["good"])
    assert row[6] == pytest.approx(np.sqrt(stats.chi2_contingency(table, correction=False).statistic))


def test_looks_at_survival_count_events(trial: pd.DataFrame, ask: Any) -> None:
    features = (Feature(name="t"), Feature(name="e"), ARM)
    found = ask(LogRank(formula="Surv(t, e) ~ arm", features=features, planned=150, spending="pocock"), [trial])
    row = found.table("Look").rows[0]
    assert row[1] == trial["e"].sum() and row[2] == pytest.approx(trial["e"].sum() / 150)
    assert row[6] == pytest.approx(-np.sqrt(found.frame("Test")["statistic"][0])), "group b lives longer, so it has fewer events than expected"
    stale = ask(LogRank(formula="Surv(t, e) ~ arm", features=features, planned=150, earlier=(trial["e"].sum(),)), [trial])
    assert stale.table("Look").rows == () and "no more information" in stale.table("Look").notes[0]


@pytest.mark.parametrize(("options", "why"), [({"earlier": [3.0]}, "planned"), ({"planned": 9.0, "earlier": [3.0, 2.0]}, "more than the one before")])
def test_looks_that_cannot_be(options: dict[str, Any], why: str) -> None:
    with pytest.raises(BadStudy, match=why):
        catalogue.make(Analysis(method="t_test", formula="y ~ arm", options=options), (Feature(name="y"), ARM))
