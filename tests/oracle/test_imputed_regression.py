"""Missing values imputed at each hospital: the pooled fits of what it imputed, and what imputing them is for."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from tests.oracle.conftest import frame_of

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.study import Feature
from aimer2.core.study.formula import parse
from aimer2.statistics.chained_equations import Incomplete, completed
from aimer2.statistics.cox import Cox
from aimer2.statistics.glm import Glm
from aimer2.statistics.imputed_regression import ImputedRegression
from aimer2.statistics.multiple_imputation import combine

GROUP = Feature(name="s", kind="category", categories=("f", "m", "d"))


def imputed(formula: str, **options: Any) -> ImputedRegression:
    names = [name for name in parse(formula).columns if name != "s"]
    return ImputedRegression(formula=formula, features=(GROUP, *(Feature(name=name) for name in names)), **options)


def patients(rng: np.random.Generator, rows: int) -> pd.DataFrame:
    """z is missing the more often the larger the outcome is, so that who has it is no fair sample; s is missing now and then."""
    data = pd.DataFrame({"x": rng.normal(size=rows), "s": rng.choice(["f", "m", "d"], rows)})
    data["z"] = 0.6 * data["x"] + 0.5 * (data["s"] == "m") + rng.normal(size=rows)
    data["y"] = 1 + 0.5 * data["x"] - 0.4 * data["z"] + 0.7 * (data["s"] == "m") + rng.normal(size=rows)
    data["time"], data["died"] = np.round(rng.exponential(np.exp(-0.5 * data["z"])) * 50) + 1, (rng.random(rows) < 0.8) * 1.0
    data["z"] = data["z"].where(rng.random(rows) > 1 / (1 + np.exp(1 - data["y"])))
    data["s"] = data["s"].where(rng.random(rows) > 0.2)
    return data


@pytest.fixture(scope="module")
def hospitals() -> list[pd.DataFrame]:
    rng = np.random.default_rng(3)
    return [patients(rng, rows) for rows in (120, 80, 100)]


def test_without_gaps_it_is_the_regression_itself(hospitals: list[pd.DataFrame], ask: Any) -> None:
    whole = [one.dropna() for one in hospitals]
    features = (GROUP, *(Feature(name=name) for name in ("y", "x", "z")))
    for options in ({}, {"sites": "fixed"}):
        found = ask(imputed("y ~ x + z + s", imputations=3, **options), whole).frame()
        plain = ask(Glm(formula="y ~ x + z + s", features=features, **options), whole).frame()  # type: ignore[arg-type]
        for column in ("estimate", "standard_error"):
            np.testing.assert_allclose(found[column], plain[column], rtol=1e-10)
        assert (found["missing_information"] < 0.05).all()


def test_it_pools_the_fits_of_what_each_hospital_imputed(hospitals: list[pd.DataFrame], ask: Any) -> None:
    """The imputations that hospitals made, put together and fitted by statsmodels one after the other, are what Rubin's rules pooled."""
    method = imputed("y ~ x + z + s", imputations=4, cycles=3)
    table = ask(method, hospitals).table()
    made = [method._imputed(method.read(frame_of(method, one))) for one in hospitals]
    fits = []
    for place in range(4):
        x, z, s, y = (np.concatenate([frames[place].columns[name] for frames in made]) for name in ("x", "z", "s", "y"))
        assert not np.isnan([x, z, s]).any()
        fits.append(sm.OLS(y, np.column_stack([np.ones(len(x)), x, z, s == 1, s == 2])).fit())
    for place, row in enumerate(table.rows):
        expected = combine([fit.params[place] for fit in fits], [fit.bse[place] for fit in fits], fits[0].df_resid)
        np.testing.assert_allclose([row[1], row[2], row[6], row[8]], [*expected[:2], expected.freedom, expected.missing_information], rtol=1e-7)
    gaps = {name: sum(int(one[name].isna().sum()) for one in hospitals) for name in ("x", "z", "s")}
    assert {name: table.facts[f"missing {name}"] for name in gaps} == gaps and gaps["z"] > 50


def test_known_values_stay_and_gaps_take_values_that_somebody_has(hospitals: list[pd.DataFrame]) -> None:
    method = imputed("y ~ x + z + s", imputations=5)
    rows = frame_of(method, hospitals[0])
    made = method._imputed(rows)
    for name in ("z", "s"):
        known = ~np.isnan(rows.columns[name])
        for one in made:
            np.testing.assert_array_equal(one.columns[name][known], rows.columns[name][known])
            assert set(one.columns[name][~known]) <= set(rows.columns[name][known])
        assert not np.array_equal(made[0].columns[name], made[1].columns[name])
    [normal, *_] = imputed("y ~ x + z + s", imputations=2, numbers="normal")._imputed(rows)
    assert not set(normal.columns["z"]) <= set(rows.columns["z"]) and set(normal.columns["s"]) == {0.0, 1.0, 2.0}
    again = imputed("y ~ x + z + s", imputations=5)._imputed(rows)
    assert all(np.array_equal(one.columns["z"], other.columns["z"]) for one, other in zip(made, again, strict=True))


@pytest.mark.parametrize("matched", [True, False])
def test_draws_follow_what_is_known(matched: bool) -> None:
    """Of a number that follows from another, and a category whose chances do: where values are missing they come out as they would have been."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=4000)
    number, category = 2 * x + 0.5 * rng.normal(size=4000), (rng.random(4000) < 1 / (1 + np.exp(-2 * x))) * 1.0
    gap = x > 0.3
    table = Incomplete(
        {"x": x, "number": np.where(gap & (rng.random(4000) < 0.5), np.nan, number), "category": np.where(gap, np.nan, category)},
        {"category": 2},
        np.zeros((4000, 0)),
    )
    filled = completed(table, 5, rng, matched=matched)
    for name, true in (("number", number), ("category", category)):
        missing = np.isnan(table.columns[name])
        for low, high in ((0.3, 0.8), (0.8, 4.0)):
            where = missing & (x > low) & (x <= high)
            assert filled[name][where].mean() == pytest.approx(true[where].mean(), abs=0.12), name
    missing = np.isnan(table.columns["number"])
    assert (filled["number"] - 2 * x)[missing].std() == pytest.approx(0.5, abs=0.06)
    assert np.isin(filled["number"], number).all() == matched


def test_a_fair_answer_where_complete_patients_have_none(ask: Any) -> None:
    """Who has all values is no fair sample here: those patients alone give an effect of 0.52 in place of 0.7, three standard errors off."""
    rng = np.random.default_rng(11)
    sites = [patients(rng, 1500) for _ in range(3)]
    found = ask(imputed("y ~ x + z + s", imputations=5, cycles=5), sites).frame().set_index("term")
    features = (GROUP, *(Feature(name=name) for name in ("y", "x", "z")))
    complete = ask(Glm(formula="y ~ x + z + s", features=features), sites).frame().set_index("term")
    for term, truth in (("x", 0.5), ("z", -0.4), ("s = m", 0.7), ("s = d", 0.0)):
        assert abs(found["estimate"][term] - truth) < 3.5 * found["standard_error"][term], term
    assert complete["high"]["s = m"] < 0.7 - complete["standard_error"]["s = m"]
    assert (found["standard_error"] < complete["standard_error"]).all()


def test_ratios_of_logistic_and_cox_regression(hospitals: list[pd.DataFrame], ask: Any) -> None:
    data = [one.assign(ill=(one["y"] > 1) * 1.0) for one in hospitals]
    odds = ask(imputed("ill ~ x + z", regression="glm", family="binomial", imputations=3, cycles=3), data).frame()
    np.testing.assert_allclose(odds["odds_ratio_low"], np.exp(odds["low"]))
    cox = ask(imputed("Surv(time, died) ~ z", regression="cox", imputations=20, cycles=3), data).frame()
    features = tuple(Feature(name=name) for name in ("time", "died", "z"))
    plain = ask(Cox(formula="Surv(time, died) ~ z", features=features), data).frame()
    # times know nothing of why z is missing, so that both are right
    assert cox["estimate"][0] == pytest.approx(plain["estimate"][0], abs=2 * plain["standard_error"][0])
    assert cox["hazard_ratio"][0] > 1 and 0.1 < cox["missing_information"][0] < 0.9


def test_what_cannot_be_imputed_is_refused() -> None:
    assert any("hospitals are strata" in fault for fault in imputed("Surv(time, died) ~ z", regression="cox", sites="fixed").faults())
    assert any("takes one of two categories" in fault for fault in imputed("s ~ z").faults())
    method, limits = imputed("y ~ x + z"), Disclosure(minimum_cell=5, patients_per_parameter=2)
    rng = np.random.default_rng(2)
    columns = {name: rng.normal(size=60) for name in ("y", "x", "z")} | {"s": np.zeros(60)}
    columns["z"][:57] = np.nan
    few = Frame(columns, np.arange(60, dtype=np.uint64))
    assert list(method.against(few, limits, secure=True)) == ["too few patients here have z to impute it for the others"]
    columns["z"][:27] = rng.normal(size=27)
    assert not list(method.against(few, limits, secure=True))


def gapped(gaps: int, rows: int = 400) -> Frame:
    """The first patients lack z."""
    rng = np.random.default_rng(4)
    columns = {name: rng.normal(size=rows) for name in ("y", "x", "z")} | {"s": rng.integers(3, size=rows).astype(float)}
    columns["z"][:gaps] = np.nan
    return Frame(columns, np.arange(rows, dtype=np.uint64))


def test_differences_of_imputations_hold_the_patients_with_a_gap_and_these_must_be_many() -> None:
    """With one gap the difference of two imputations' sums is that patient's whole row; the pooled sums of a secure study have it too."""
    method, alone = imputed("y ~ x + z"), gapped(1)
    first, *others = method._imputed(alone)
    other = next(one for one in others if one.columns["z"][0] != first.columns["z"][0])
    crosses = [np.array([one.columns["z"] @ values for values in (np.ones(400), one.columns["x"], one.columns["y"])]) for one in (first, other)]
    apart = crosses[1] - crosses[0]
    np.testing.assert_allclose(apart[1:] / apart[0], [alone.columns["x"][0], alone.columns["y"][0]], rtol=1e-8)
    refused = "fewer than 45 patients here lack z, and what 5 imputations tell would be of them alone"
    for secure in (True, False):
        for gaps in (1, 3, 44):
            assert list(method.against(gapped(gaps), Disclosure(), secure=secure)) == [refused]
        for gaps in (0, 45):
            assert not list(method.against(gapped(gaps), Disclosure(), secure=secure))
    assert list(imputed("y ~ x + z", sites="fixed").against(gapped(44), Disclosure(), secure=True)) == [refused]
    thrice = Frame(gapped(60).columns, np.arange(400, dtype=np.uint64) // 3)
    assert list(method.against(thrice, Disclosure(), secure=True)) == [refused]


def test_imputations_that_differ_in_few_patients_are_refused() -> None:
    """Of 100 gaps all but one are filled as surely as can be: two imputations differ in that patient alone."""
    rng = np.random.default_rng(6)
    x = np.repeat([-1.0, 1.0], 200) * rng.uniform(3, 4, 400)
    x[0] = 0.0
    s = (x > 0) * 1.0
    s[:50] = s[350:] = np.nan
    frame = Frame({"y": rng.normal(size=400), "x": x, "s": s}, np.arange(400, dtype=np.uint64))
    method = imputed("y ~ x + s", imputations=5)
    refused = list(method.against(frame, Disclosure(), secure=True))
    assert len({one.columns["s"][0] for one in method._imputed(frame)}) == 2 and "imputations of s = m tell of fewer than 12 patients here" in refused


def test_a_category_is_rare_by_the_values_that_are_known() -> None:
    """Two have it; with whom the first imputation gives it there would be enough."""
    rng = np.random.default_rng(2)
    x, s = rng.normal(size=200), rng.choice([0.0, 1.0], 200)
    s[:2], s[80:] = 2.0, np.nan
    frame = Frame({"y": x + rng.normal(size=200), "x": x, "s": s}, np.arange(200, dtype=np.uint64))
    assert (imputed("y ~ x + s")._imputed(frame)[0].columns["s"] == 2).sum() >= 10
    assert "fewer than 10 patients have s = d" in list(imputed("y ~ x + s").against(frame, Disclosure(), secure=True))


def test_normal_draws_keep_to_what_a_column_can_have() -> None:
    rng = np.random.default_rng(8)
    crp = rng.lognormal(0, 1.5, 300)
    crp[:100] = np.nan
    frame = Frame({"y": rng.normal(size=300), "crp": crp}, np.arange(300, dtype=np.uint64))
    features = (Feature(name="y"), Feature(name="crp", minimum=0, maximum=8))
    made = ImputedRegression(formula="y ~ crp", features=features, numbers="normal")._imputed(frame)[0].columns["crp"][:100]
    assert made.min() == 0 and made.max() <= 8 and len(np.unique(made)) > 50
    asked = {numbers: imputed("y ~ log(z) + x", numbers=numbers) for numbers in ("matched", "normal")}
    assert not list(asked["matched"].faults())
    assert list(asked["normal"].faults()) == ["a normal draw may have no log(z): take numbers = matched, or a column of that already"]


def test_imputations_are_made_once_for_a_site_and_forgotten_with_its_rows() -> None:
    method, frames = imputed("y ~ x + z", imputations=2, cycles=1), [gapped(50 + place) for place in range(6)]
    first = [method._imputed(frame) for frame in frames]
    assert all(method._imputed(frame) is made for frame, made in zip(frames, first, strict=True))
    for rows in (400, 0):
        kept = gapped(0, rows)
        method._imputed(kept)
        gone = weakref.ref(kept)
        del kept
        gc.collect()
        assert gone() is None


def test_each_imputation_is_an_equation_of_its_own_and_so_is_a_count_of_missing_values() -> None:
    method = imputed("y ~ x + z", imputations=7)
    plain = Glm(formula="y ~ x + z", features=method.features).equations()
    assert {name: len(labels) for name, labels in method.equations().items()} == {
        name: 7 * len(labels) + (name in ("x", "z")) for name, labels in plain.items()
    }
    known = {cohort.name: cohort.rows.counted() for cohort in method.cohorts(gapped(60)) if "known" in cohort.name}
    assert known == {"x is known": 400, "z is known": 340}
