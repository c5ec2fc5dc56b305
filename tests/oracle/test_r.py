"""R as a second oracle: the same patients parted among hospitals, against what R's stats and survival packages say of all of them together.

r.json holds R's answers (R 4.2.2, survival 3.5-3; oracle.R beside it made them). Data: scikit-learn's breast cancer, lifelines' lung, statsmodels'
executions; admissions to Berkeley are in R's own datasets.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines.datasets import load_lung
from sklearn.datasets import load_breast_cancer
from statsmodels.datasets import cpunish

from aimer2.core.study import Feature
from aimer2.core.study.formula import parse
from aimer2.statistics.aalen_johansen import AalenJohansen
from aimer2.statistics.anova import Anova
from aimer2.statistics.contingency import Contingency
from aimer2.statistics.correlation import Correlation
from aimer2.statistics.cox import Cox
from aimer2.statistics.describe import Describe
from aimer2.statistics.glm import Glm
from aimer2.statistics.incidence import Incidence
from aimer2.statistics.kaplan_meier import KaplanMeier
from aimer2.statistics.log_rank import LogRank
from aimer2.statistics.mantel_haenszel import MantelHaenszel
from aimer2.statistics.nelson_aalen import NelsonAalen
from aimer2.statistics.rank_test import RankTest
from aimer2.statistics.restricted_mean import RestrictedMean
from aimer2.statistics.t_test import TTest

R: dict[str, list[float]] = {}
RECORDED = Path(__file__).with_name("r.json")
if RECORDED.exists():
    R = json.loads(RECORDED.read_text())

DAYS = tuple(float(day) for day in range(1, 1023))


def lung() -> pd.DataFrame:
    """One patient has no ECOG, one no institution. ``entry``: some come under observation later; ``kind``: of those who died, by ECOG."""
    data = load_lung()[["time", "status", "age", "sex", "ph.ecog", "inst"]].dropna().astype(int).reset_index(drop=True)
    return data.assign(entry=(np.arange(len(data)) * 7) % 50, kind=data["status"] * np.where(data["ph.ecog"] > 1, 2, 1))


def cells() -> pd.DataFrame:
    bunch = load_breast_cancer(as_frame=True)
    named = bunch.data.rename(columns=lambda name: name.replace(" ", "_"))[["mean_radius", "mean_texture", "mean_smoothness", "mean_area"]]
    return named.assign(malignant=1 - bunch.target, third=np.arange(len(named)) % 3)


def executions() -> pd.DataFrame:
    data: pd.DataFrame = cpunish.load_pandas().data
    return data


DATA: dict[str, Callable[[], pd.DataFrame]] = {"lung": lung, "cells": cells, "executions": executions}


def method(kind: Any, formula: str, **options: Any) -> Any:
    """Categories are those that ``C(…)`` lists."""
    variables = {one.name: one for one in parse(formula).variables}
    listed = {
        name: Feature(name=name, kind="category", categories=one.levels) if one.levels else Feature(name=name) for name, one in variables.items()
    }
    limits = options.pop("limits", {})
    listed |= {name: Feature(name=name, minimum=low, maximum=high) for name, (low, high) in limits.items()}
    return kind(formula=formula, features=tuple(listed.values()), **options)


def thirds(data: pd.DataFrame) -> list[pd.DataFrame]:
    return [data.iloc[start::3] for start in range(3)]


def near(found: Any, name: str, rtol: float = 1e-9, places: slice = slice(None)) -> None:
    np.testing.assert_allclose(np.asarray(found, float).ravel(), np.asarray(R[name], float)[places], rtol=rtol, atol=1e-14, err_msg=name)


SEX = 'C(sex, "1", "2")'
SICK = 'C(malignant, "0", "1")'
THIRD = 'C(third, "0", "1", "2")'


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_cox_regression(ask: Any, ties: str) -> None:
    found = ask(method(Cox, f"Surv(time, status) ~ age + {SEX} + `ph.ecog`", sites="pooled", edges=DAYS, ties=ties), thirds(lung()))
    line, facts = found.frame(), found.table().facts
    likelihood = facts["log_likelihood"]
    near([*line["estimate"], *line["standard_error"], likelihood - facts["likelihood_ratio_chi2"] / 2, likelihood], f"cox_{ties}", 1e-8)


def test_cox_regression_with_the_institutions_as_hospitals(ask: Any) -> None:
    """Eighteen hospitals, some with a patient or two."""
    found = ask(method(Cox, f"Surv(time, status) ~ age + {SEX} + `ph.ecog`"), [own for _, own in lung().groupby("inst")])
    line, facts = found.frame(), found.table().facts
    likelihood = facts["log_likelihood"]
    near([*line["estimate"], *line["standard_error"], likelihood - facts["likelihood_ratio_chi2"] / 2, likelihood], "cox_strata", 1e-8)


def test_cox_regression_with_delayed_entry(ask: Any) -> None:
    late = lung().query("entry < time")
    found = ask(method(Cox, f"Surv(entry, time, status) ~ age + {SEX}", sites="pooled", edges=DAYS), thirds(late)).frame()
    near([*found["estimate"], *found["standard_error"]], "cox_entry", 1e-8)


def test_survival_and_its_medians(ask: Any) -> None:
    found = ask(method(KaplanMeier, f"Surv(time, status) ~ {SEX}", edges=DAYS), thirds(lung()))
    curves = found.frame("Survival").set_index("group")
    at = pd.concat([curves.loc[sex].query("time <= @day").tail(1) for sex in "12" for day in (90, 180, 365, 730)])
    near([*at["survival"], *at["standard_error"], *at["low"], *at["high"]], "survival")
    medians = found.frame("Medians")
    near([*medians["median"], *medians["low"], *medians["high"]], "median")


def test_the_cumulative_hazard(ask: Any) -> None:
    found = ask(method(NelsonAalen, "Surv(time, status) ~ 1", edges=DAYS), thirds(lung())).frame()
    at = found.query("time in (90, 365)")
    near([*at["hazard"], *at["standard_error"]], "nelson_aalen")


def test_restricted_mean_survival(ask: Any) -> None:
    found = ask(method(RestrictedMean, f"Surv(time, status) ~ {SEX}", edges=DAYS[:365]), thirds(lung())).frame("Time lived")
    near([*found["estimate"], *found["standard_error"]], "restricted_mean")


@pytest.mark.parametrize(
    ("name", "formula", "options"),
    [
        ("log_rank", "", {}),
        ("log_rank_peto", "", {"weights": "fleming_harrington", "p": 1.0}),
        ("log_rank_strata", ' + strata(C(`ph.ecog`, "0", "1", "2", "3"))', {}),
    ],
)
def test_log_rank(ask: Any, name: str, formula: str, options: Any) -> None:
    found = ask(method(LogRank, f"Surv(time, status) ~ {SEX}{formula}", sites="pooled", edges=DAYS, **options), thirds(lung()))
    near(found.frame("Test")["statistic"][:1], name)


def test_competing_events(ask: Any) -> None:
    found = ask(method(AalenJohansen, 'Surv(time, C(kind, "0", "1", "2")) ~ 1', edges=DAYS), thirds(lung())).frame()
    at = found.query("time in (90, 180, 365, 730)").sort_values(["event", "time"], kind="stable")
    near(at["incidence"], "competing")
    near(at["standard_error"], "competing_error", 1e-6)


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
def test_binomial_regression(ask: Any, link: str) -> None:
    formula = "malignant ~ mean_radius + mean_texture" + (" + mean_smoothness" if link == "logit" else "")
    found = ask(method(Glm, formula, family="binomial", link=link), thirds(cells()))
    lines = found.frame()[["estimate", "standard_error", "statistic", "p"]].to_numpy()
    facts = found.table().facts
    further = [facts["deviance"], facts["aic"], facts["null_deviance"]] if link == "logit" else []
    near([*lines.ravel(), *further], "logistic" if link == "logit" else link, 1e-7)


def test_gamma_regression(ask: Any) -> None:
    found = ask(method(Glm, "mean_area ~ mean_radius + mean_smoothness", family="gamma", link="log"), thirds(cells()))
    lines = found.frame()[["estimate", "standard_error", "statistic", "p"]].to_numpy()
    near([*lines.ravel(), found.table().facts["dispersion"]], "gamma", 1e-7)


def test_linear_regression_with_an_interaction(ask: Any) -> None:
    found = ask(method(Glm, "mean_texture ~ mean_radius * mean_smoothness"), thirds(cells()))
    facts = found.table().facts
    lines = found.frame()[["estimate", "standard_error", "statistic", "p"]].to_numpy()
    near([*lines.ravel(), *(facts[name] for name in ("r_squared", "adjusted_r_squared", "log_likelihood", "aic", "bic"))], "linear", 1e-8)


def test_poisson_regression_with_an_offset(ask: Any) -> None:
    found = ask(method(Glm, "EXECUTIONS ~ SOUTH + DEGREE + offset(log(INCOME))", family="poisson"), thirds(executions()))
    facts = found.table().facts
    near(
        [*found.frame()[["estimate", "standard_error", "statistic", "p"]].to_numpy().ravel(), facts["deviance"], facts["aic"]], "poisson_offset", 1e-7
    )


@pytest.mark.parametrize("equal", [False, True])
def test_t_tests(ask: Any, equal: bool) -> None:
    """R takes the second group from the first."""
    found = ask(method(TTest, f"mean_radius ~ {SICK}", equal_variances=equal), thirds(cells()))
    line = found.frame("Student's t test" if equal else "Welch's t test").iloc[0]
    near([-line["statistic"], line["freedom"], line["p"], -line["high"], -line["low"]], "t_student" if equal else "t_welch", 1e-9)


def test_ranks(ask: Any) -> None:
    """Whole numbers from 9 to 40, one bin each."""
    rounded = cells().assign(texture=lambda data: data["mean_texture"].round())
    options = {"bins": 31, "limits": {"texture": (8.5, 39.5)}}
    two = ask(method(RankTest, f"texture ~ {SICK}", **options), thirds(rounded))
    near(two.frame()["p"], "mann_whitney", 1e-9, slice(1, 2))
    three = ask(method(RankTest, f"texture ~ {THIRD}", **options), thirds(rounded))
    near(three.frame()[["statistic", "p"]], "kruskal")


def test_analysis_of_variance(ask: Any) -> None:
    found = ask(method(Anova, f"mean_texture ~ {THIRD}", sites="pooled"), thirds(cells()))
    whole = found.table("Analysis of variance").rows[0]
    near([cell for cell in whole if isinstance(cell, float)][-2:], "anova")


def test_correlation_and_principal_components(ask: Any) -> None:
    found = ask(method(Correlation, "~ mean_radius + mean_texture + mean_smoothness", components=3), thirds(cells()))
    line = found.frame("Correlations").query("column == 'mean_radius' and other == 'mean_smoothness'")
    near(line[["estimate", "low", "high"]], "correlation")
    near(found.frame("Principal components")["variance"], "components")


def test_tables_of_counts(ask: Any) -> None:
    three = ask(method(Contingency, f"{SICK} ~ {THIRD}"), thirds(cells()))
    near(three.frame("Association").query("test == 'chi-squared'")[["statistic", "p"]], "chi_squared")
    few = pd.DataFrame({"y": [0] * 12 + [1] * 15, "g": [0] * 3 + [1] * 9 + [0] * 11 + [1] * 4})
    two = ask(method(Contingency, 'y ~ C(g, "0", "1")'), thirds(few)).frame("Association").set_index("test")
    near(two.loc["chi-squared, corrected for continuity", ["statistic", "p"]], "yates")
    near(two.loc["Fisher's exact test", "p"], "fisher", 1e-8)


def test_mantel_haenszel_on_admissions_to_berkeley(ask: Any) -> None:
    """Six departments; the odds of a man's admission with a woman's. R's array has admission first, gender second, department last."""
    counts = np.array(R["admissions"], int).reshape(6, 2, 2)
    rows = [(dept, 1 - sex, 1 - no) for dept in range(6) for sex in range(2) for no in range(2) for _ in range(counts[dept, sex, no])]
    people = pd.DataFrame(rows, columns=["dept", "man", "admitted"]).sample(frac=1, random_state=1)
    levels = ", ".join(f'"{dept}"' for dept in range(6))
    found = ask(method(MantelHaenszel, f'admitted ~ C(man, "0", "1") + strata(C(dept, {levels}))', sites="pooled"), thirds(people))
    plain, corrected, *_ = found.frame("Tests")[["statistic", "p"]].to_numpy()
    near([*plain, *found.table("Common ratios").rows[0][1:2]], "mantel_haenszel_false", 1e-9, slice(0, 3))
    near(corrected, "mantel_haenszel_true", 1e-9, slice(0, 2))


def test_exact_limits_of_rates_and_shares(ask: Any) -> None:
    years = pd.DataFrame({"ill": [1] * 17 + [0] * 273, "years": 4321.5 / 290})
    near(ask(method(Incidence, "ill ~ 1 + offset(years)"), thirds(years)).frame()[["low", "high"]], "poisson_limits", 1e-8)
    near(ask(method(Incidence, "ill ~ 1"), thirds(years)).frame()[["low", "high"]], "binomial_limits", 1e-8)


def test_moments_and_quantiles(ask: Any) -> None:
    found = ask(method(Describe, "~ mean_radius", quantiles=(0.05, 0.25, 0.5, 0.75, 0.95)), thirds(cells())).frame("Numbers").iloc[0]
    near([found["mean"], found["variance"]], "moments")
    near(found[["q5", "q25", "q50", "q75", "q95"]], "quantiles", 1e-8)


if __name__ == "__main__":
    for name, made in DATA.items():
        made().to_csv(Path(sys.argv[1]) / f"{name}.csv", index=False)
