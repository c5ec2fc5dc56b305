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


# R 4.2, survival 3.5: f <- coxph(Surv(time, status) ~ age + sex + ph.ecog, lung)
# cox.zph(f, transform = …)$table; concordance(f); coxph(…, robust = TRUE)
LUNG = "Surv(time, status) ~ age + sex + ph.ecog"
ZPH = {
    "km": ([0.187987673652, 2.305437227405, 2.054248774054, 4.463657588759], [0.664596763116, 0.128921998811, 0.151782098908, 0.215554945342]),
    "identity": ([0.152350317254, 2.491913217107, 1.578235238377, 4.119382951479], [0.696299353637, 0.114432541342, 0.209015076382, 0.248858142032]),
    "log": ([3.373634010749, 2.034936878885, 0.370496324777, 5.389821428059], [0.0662474757341, 0.1537205658631, 0.542733852857, 0.1453790557016]),
}


@pytest.mark.parametrize("clock", ZPH)
def test_whether_hazards_are_proportional(lung: pd.DataFrame, ask: Any, part: Part, clock: str) -> None:
    found = ask(cox(LUNG, sites="pooled", edges=DAYS, proportionality=clock), part(lung, "inst")).frame("Proportional hazards")
    assert found["term"].tolist() == ["age", "sex", "ph.ecog", "all together"] and found["freedom"].tolist() == [1, 1, 1, 3]
    closely(found["statistic"], ZPH[clock][0], 1e-7)
    closely(found["p"], ZPH[clock][1], 1e-7)


def test_proportional_hazards_by_breslow_and_of_a_category_together(lung: pd.DataFrame, ask: Any) -> None:
    found = ask(cox(LUNG, sites="pooled", edges=DAYS, proportionality="km", ties="breslow"), [lung.iloc[::2], lung.iloc[1::2]])
    closely(found.frame("Proportional hazards")["statistic"], [0.188085661154, 2.297197354934, 2.051708611740, 4.451012333769], 1e-7)
    data = lung[lung["ph.ecog"] < 3].assign(ecog=lambda whole: whole["ph.ecog"].astype(int).astype(str))
    ecog = Feature(name="ecog", kind="category", categories=("0", "1", "2"))
    lines = ask(cox("Surv(time, status) ~ age + ecog", ecog, proportionality="log"), [data]).frame("Proportional hazards")
    assert lines["freedom"].tolist() == [1, 2, 3]
    closely(lines["statistic"], [3.77144028959, 2.01126369643, 5.0122660656], 1e-7)


# R: coxph(Surv(time, status) ~ age + sex + ph.ecog + strata(inst), na.omit(lung)), each hospital a stratum
STRATIFIED = {
    "identity": [0.0673253324002, 2.0842884525149, 1.0820752966948, 3.7764557366414],
    "log": [2.8447647886082, 1.0275567643596, 0.0712285901604, 3.6594236577190],
}


@pytest.mark.parametrize("clock", STRATIFIED)
def test_hospitals_as_strata_have_their_tests_errors_and_concordance(lung: pd.DataFrame, ask: Any, clock: str) -> None:
    sites = [one for _, one in lung.dropna().groupby("inst")]
    found = ask(cox(LUNG, proportionality=clock, errors="robust", concordance=True), sites)
    closely(found.frame("Proportional hazards")["statistic"], STRATIFIED[clock], 1e-6)
    closely(found.frame("Coefficients")["standard_error"], [0.00932682312765, 0.16834869205989, 0.13179871405012], 1e-6)
    facts = found.table().facts
    closely([facts["concordance"], facts["concordance_standard_error"]], [0.666452442159, 0.0308605064627], 1e-9)
    by_site = ask(cox(LUNG, errors="sites"), sites)
    closely(by_site.frame()["standard_error"], [0.0071184795553, 0.0980577624555, 0.1421990756278], 1e-6)
    assert any("too small" in note for note in by_site.table().notes)


ROBUST = {
    "efron": [0.00988139278009, 0.16474842795208, 0.12415884861318],
    "breslow": [0.00986140619335, 0.16448354941708, 0.12396345277861],
}


@pytest.mark.parametrize("ties", ROBUST)
def test_robust_errors_where_sites_are_pooled(lung: pd.DataFrame, ask: Any, part: Part, ties: str) -> None:
    found = ask(cox(LUNG, sites="pooled", edges=DAYS, ties=ties, errors="robust"), part(lung, "inst"))
    closely(found.frame()["standard_error"], ROBUST[ties], 1e-7)


def test_errors_over_hospitals_of_one_hazard_and_concordance_within_one_hospital(lung: pd.DataFrame, ask: Any) -> None:
    sites = [one for _, one in lung.dropna().groupby("inst")]
    found = ask(cox(LUNG, sites="pooled", edges=DAYS, errors="sites"), sites)
    closely(found.frame()["standard_error"], [0.00688872705866, 0.11228667992536, 0.11761595325485], 1e-7)
    facts = ask(cox(LUNG, sites="pooled", edges=DAYS, concordance=True), [lung]).table().facts
    closely([facts["concordance"], facts["concordance_standard_error"]], [0.637135493, 0.0250679738531], 1e-8)
    # summary(f): Wald test = 29.93 on 3 df
    assert facts["wald_chi2"] == pytest.approx(29.93, abs=0.005)


def test_robust_errors_and_residuals_with_late_entry_strata_and_ties(ask: Any) -> None:
    """Patients of several rows: the rows of one patient, parted at a time, are that patient's one row."""
    rng = np.random.default_rng(6)
    whole = pd.DataFrame({"entry": 0.0, "time": rng.integers(2, 30, 240) * 1.0, "died": rng.integers(0, 2, 240) * 1.0, "x": rng.normal(size=240)})
    whole["arm"] = rng.choice(["a", "b"], 240)
    early = whole.assign(time=np.minimum(whole["time"], 9.0), died=whole["died"] * (whole["time"] <= 9))
    both = pd.concat([early, whole[whole["time"] > 9].assign(entry=9.0)])
    arm = Feature(name="arm", kind="category", categories=("a", "b"))
    days = tuple(float(day) for day in range(1, 31))
    asked = {"sites": "pooled", "edges": days, "errors": "patients", "concordance": True}
    one_row = ask(cox("Surv(entry, time, died) ~ x + strata(arm)", arm, **asked), [whole])
    ids = np.concatenate([np.arange(240), np.flatnonzero(whole["time"] > 9)])
    method = cox("Surv(entry, time, died) ~ x + strata(arm)", arm, **asked)
    two_rows = ask(method, [both], patients=[ids])
    closely(two_rows.frame()[["estimate", "standard_error"]], one_row.frame()[["estimate", "standard_error"]], 1e-9)
    # R: coxph(Surv(time, died) ~ x + strata(arm), whole, robust = TRUE)
    closely(one_row.frame()["standard_error"], [0.0976820451827], 1e-9)
    facts = one_row.table().facts
    closely([facts["concordance"], facts["concordance_standard_error"]], [0.49919010455, 0.0329803375586], 1e-9)
