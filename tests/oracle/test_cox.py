"""Cox regression and survival curves over hospitals are the pooled ones: against lifelines, statsmodels and R's published output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.datasets import load_lung, load_rossi
from lifelines.utils import median_survival_times
from statsmodels.duration.hazard_regression import PHReg

from aimer2.core.study import Feature
from aimer2.core.study.formula import parse
from aimer2.statistics.cox import Cox
from aimer2.statistics.kaplan_meier import KaplanMeier

Part = Callable[..., list[pd.DataFrame]]
WEEKS = tuple(float(week) for week in range(1, 53))
DAYS = tuple(float(day) for day in range(1, 1023))
ROSSI = "fin + age + race + wexp + mar + paro + prio"


def features(formula: str, *categories: Feature) -> tuple[Feature, ...]:
    listed = {one.name for one in categories}
    return (*categories, *(Feature(name=name) for name in parse(formula).columns if name not in listed))


def cox(formula: str, *categories: Feature, **options: Any) -> Cox:
    return Cox(formula=formula, features=features(formula, *categories), **options)


def closely(found: Any, expected: Any, rtol: float = 1e-8) -> None:
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), rtol=rtol)


@pytest.fixture(scope="module")
def rossi() -> pd.DataFrame:
    return load_rossi().astype(float)


@pytest.fixture(scope="module")
def lung() -> pd.DataFrame:
    data: pd.DataFrame = load_lung()[["time", "status", "age", "sex", "ph.ecog", "inst"]]
    return data.dropna(subset=["ph.ecog"]).reset_index(drop=True)


def test_efron_on_rossi(rossi: pd.DataFrame, ask: Any, part: Part) -> None:
    found = ask(cox(f"Surv(week, arrest) ~ {ROSSI}", sites="pooled", edges=WEEKS), part(rossi, "week"))
    published = [-0.3794221669, -0.05743774301, 0.3138997859, -0.1497956972, -0.4337038767, -0.08487108299, 0.09149707935]
    line, facts = found.frame(), found.table().facts
    closely(line["estimate"], published)
    pooled = PHReg(rossi["week"], rossi[ROSSI.split(" + ")], rossi["arrest"], ties="efron").fit(disp=0)
    closely(line["standard_error"], pooled.bse, 1e-7)
    closely(line["p"], pooled.pvalues, 1e-6)
    closely([facts["log_likelihood"], facts["likelihood_ratio_chi2"]], [-658.747659446, 33.2659458])


def test_breslow_on_rossi(rossi: pd.DataFrame, ask: Any, part: Part) -> None:
    found = ask(cox(f"Surv(week, arrest) ~ {ROSSI}", sites="pooled", edges=WEEKS, ties="breslow"), part(rossi, "age"))
    published = [-0.3790218878, -0.05724592536, 0.3141297651, -0.1511145996, -0.4327825725, -0.08498283575, 0.0911115405]
    closely(found.frame()["estimate"], published)
    closely(found.table().facts["log_likelihood"], -659.120605677)


@pytest.mark.parametrize(
    ("ties", "published", "likelihood"),
    [
        ("efron", [0.0110667646, -0.5526123955, 0.4637284751], -729.2301),
        ("breslow", [0.01104113639, -0.5518895696, 0.4629470403], -729.488705177),
    ],
)
def test_lung_cancer_with_exact_days(lung: pd.DataFrame, ask: Any, part: Part, ties: str, published: list[float], likelihood: float) -> None:
    found = ask(cox("Surv(time, status) ~ age + sex + ph.ecog", sites="pooled", edges=DAYS, ties=ties), part(lung, "inst"))
    closely(found.frame()["estimate"], published)
    closely(found.table().facts["log_likelihood"], likelihood, 1e-7)
    if ties == "efron":
        closely(found.frame()["standard_error"], [0.009267411, 0.16773905, 0.11357727], 1e-6)
        closely(found.table().facts["likelihood_ratio_chi2"], 30.5006688)
        closely(found.frame()["hazard_ratio"], np.exp(published))


def test_hospitals_as_strata_send_no_time_and_are_the_stratified_fit(lung: pd.DataFrame, ask: Any) -> None:
    sites = [one for _, one in lung.dropna().groupby("inst")]
    found = ask(cox("Surv(time, status) ~ age + sex + ph.ecog"), sites)
    known = lung.dropna()
    pooled = PHReg(known["time"], known[["age", "sex", "ph.ecog"]], known["status"], strata=known["inst"], ties="efron").fit(disp=0)
    closely(found.frame()["estimate"], pooled.params, 1e-7)
    closely(found.frame()["standard_error"], pooled.bse, 1e-6)
    assert "stratum" in found.table().notes[-1]


def test_strata_of_the_formula(lung: pd.DataFrame, ask: Any, part: Part) -> None:
    data = lung.assign(arm=lung["sex"].map({1: "m", 2: "f"}))
    arm = Feature(name="arm", kind="category", categories=("f", "m", "x"))
    found = ask(cox("Surv(time, status) ~ age + ph.ecog + strata(arm)", arm, sites="pooled", edges=DAYS), part(data, "age"))
    pooled = CoxPHFitter().fit(data[["time", "status", "age", "ph.ecog", "arm"]], "time", "status", strata="arm", fit_options={"precision": 1e-12})
    closely(found.frame()["estimate"], pooled.params_, 1e-7)
    closely(found.frame()["standard_error"], pooled.standard_errors_, 1e-6)


def test_who_came_under_observation_later(lung: pd.DataFrame, ask: Any, part: Part) -> None:
    data = lung.assign(entry=np.where(np.arange(len(lung)) % 3 == 0, np.minimum(60.0, lung["time"] - 1), 0.0))
    found = ask(cox("Surv(entry, time, status) ~ age + sex", sites="pooled", edges=DAYS), part(data, "age"))
    given = data[["entry", "time", "status", "age", "sex"]]
    pooled = CoxPHFitter().fit(given, "time", "status", entry_col="entry", fit_options={"precision": 1e-12})
    closely(found.frame()["estimate"], pooled.params_, 1e-7)
    closely(found.frame()["standard_error"], pooled.standard_errors_, 1e-6)


def test_coarse_times_move_the_answer_little(lung: pd.DataFrame, ask: Any) -> None:
    months = tuple(30.0 * month for month in range(1, 36))
    found = ask(cox("Surv(time, status) ~ age + sex + ph.ecog", sites="pooled", edges=months), [lung.iloc[::2], lung.iloc[1::2]])
    np.testing.assert_allclose(found.frame()["estimate"], [0.0110667646, -0.5526123955, 0.4637284751], atol=0.03)


def test_a_covariate_that_tells_the_event_is_named(lung: pd.DataFrame, ask: Any) -> None:
    data = lung.assign(marker=lung["status"] * (lung["time"] < 200) * 1.0)
    found = ask(cox("Surv(time, status) ~ age + marker", sites="pooled", edges=DAYS), [data.iloc[::2], data.iloc[1::2]])
    assert any(note.startswith("monotone likelihood: the event follows from marker") for note in found.table().notes)


def test_survival_curves_medians_and_bands(lung: pd.DataFrame, ask: Any, part: Part) -> None:
    data = load_lung().assign(arm=lambda whole: whole["sex"].map({1: "m", 2: "f"}))[["time", "status", "arm"]]
    formula = "Surv(time, status) ~ arm"
    method = KaplanMeier(formula=formula, features=features(formula, Feature(name="arm", kind="category", categories=("m", "f"))), edges=DAYS)
    found = ask(method, part(data, "time"))
    medians = found.frame("Medians").set_index("group")
    assert (medians["median"]["m"], medians["median"]["f"]) == (270, 426)
    curve = found.frame("Survival")
    for name, value in (("m", 0.336087834639), ("f", 0.526463030186)):
        own = curve[curve["group"] == name]
        closely(own[own["time"] <= 365]["survival"].iloc[-1], value, 1e-11)
        chosen = data[data["arm"] == name]
        pooled = KaplanMeierFitter().fit(chosen["time"], chosen["status"])
        interval = pooled.confidence_interval_
        at = own[own["events"] > 0]
        closely(at["survival"], pooled.survival_function_.loc[at["time"]].iloc[:, 0], 1e-12)
        inner = at[(at["survival"] < 1) & (at["survival"] > 0)]
        closely(inner[["low", "high"]], interval.loc[inner["time"]], 1e-9)
        bounds = median_survival_times(interval).iloc[0]
        assert medians["low"][name] == pytest.approx(bounds.iloc[0]) and medians["high"][name] == pytest.approx(bounds.iloc[1])


def test_binned_curves_bound_the_exact_one(ask: Any) -> None:
    data = load_lung()[["time", "status"]]
    months = tuple(30.0 * month for month in range(1, 36))
    formula = "Surv(time, status) ~ 1"
    method = KaplanMeier(formula=formula, features=features(formula), edges=months)
    curve = ask(method, [data.iloc[::2], data.iloc[1::2]]).frame("Survival")
    exact = KaplanMeierFitter().fit(data["time"], data["status"])
    truth = np.array([exact.predict(time) for time in curve["time"]])
    assert (curve["at_least"] <= truth + 1e-12).all() and (truth <= curve["at_most"] + 1e-12).all()
    assert (curve["at_most"] - curve["at_least"]).max() < 0.05
