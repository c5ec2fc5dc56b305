"""Comparisons of groups asked of hospitals are those of the pooled patients, however these lie: evenly, sorted, one alone, nobody at one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from scipy.optimize import minimize_scalar
from sklearn.datasets import load_wine
from statsmodels.formula.api import ols
from statsmodels.stats.contingency_tables import StratifiedTable

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadStudy
from aimer2.core.study import Analysis, Feature
from aimer2.statistics import catalogue
from aimer2.statistics.anova import Anova
from aimer2.statistics.contingency import Contingency, restricted_score
from aimer2.statistics.mantel_haenszel import MantelHaenszel
from aimer2.statistics.t_test import TTest

Part = Callable[..., list[pd.DataFrame]]


def category(name: str, *levels: str) -> Feature:
    return Feature(name=name, kind="category", categories=levels)


@pytest.fixture(scope="module")
def wine() -> pd.DataFrame:
    rows: Any = load_wine()
    alcohol = rows.data[:, 0]
    return pd.DataFrame(
        {
            "alcohol": alcohol,
            "kind": np.array(["one", "two", "three"])[rows.target],
            "pale": np.where(rows.data[:, 9] < 4, "yes", "no"),
            "strong": (alcohol > 13).astype(float),
            "late": np.where(np.arange(178) % 3 == 0, "late", "early"),
        }
    )


@pytest.mark.parametrize("equal", [True, False])
def test_t_tests(wine: pd.DataFrame, ask: Any, part: Part, equal: bool) -> None:
    features = (Feature(name="alcohol"), category("pale", "no", "yes"))
    method = TTest(formula="alcohol ~ pale", features=features, equal_variances=equal, level=0.9)
    line = ask(method, part(wine, "alcohol")).frame(f"{'Student' if equal else 'Welch'}'s t test").iloc[0]
    groups = {level: rows["alcohol"].to_numpy() for level, rows in wine.groupby("pale")}
    oracle = stats.ttest_ind(groups["yes"], groups["no"], equal_var=equal)
    expected = [oracle.statistic, oracle.df, oracle.pvalue, *oracle.confidence_interval(0.9), groups["yes"].mean() - groups["no"].mean()]
    np.testing.assert_allclose(line[["statistic", "freedom", "p", "low", "high", "estimate"]].to_numpy(float), expected, rtol=1e-10)


@pytest.mark.parametrize("hypothesis", ["non_inferiority", "equivalence"])
@pytest.mark.parametrize("higher", [True, False])
def test_margins_of_means(wine: pd.DataFrame, ask: Any, hypothesis: Any, higher: bool) -> None:
    features = (Feature(name="alcohol"), category("pale", "no", "yes"))
    method = TTest(formula="alcohol ~ pale", features=features, hypothesis=hypothesis, margin=1.2, higher_is_better=higher)
    found = ask(method, [wine.iloc[::2], wine.iloc[1::2]]).frame(hypothesis.replace("_", "-").capitalize()).iloc[0]
    pale, dark = (wine.loc[wine["pale"] == level, "alcohol"].to_numpy() for level in ("yes", "no"))
    below = stats.ttest_ind(pale + 1.2, dark, equal_var=False, alternative="greater").pvalue
    above = stats.ttest_ind(pale - 1.2, dark, equal_var=False, alternative="less").pvalue
    assert found["p"] == pytest.approx(max(below, above) if hypothesis == "equivalence" else below if higher else above, rel=1e-9)


@pytest.mark.parametrize("hypothesis", ["non_inferiority", "equivalence"])
@pytest.mark.parametrize("higher", [True, False])
def test_margins_of_risks(wine: pd.DataFrame, ask: Any, hypothesis: Any, higher: bool) -> None:
    """Farrington and Manning's statistic, its variance from the likeliest risks that differ by the margin, found by search."""
    features = (Feature(name="strong"), category("late", "early", "late"))
    method = Contingency(formula="strong ~ late", features=features, hypothesis=hypothesis, margin=0.2, higher_is_better=higher)
    found = ask(method, [wine.iloc[::2], wine.iloc[1::2]]).frame(hypothesis.replace("_", "-").capitalize()).iloc[0]
    counts = pd.crosstab(wine["late"], wine["strong"])
    late, early = ((counts.loc[level, 1.0], counts.loc[level].sum()) for level in ("late", "early"))
    below, above = stats.norm.sf(searched(late, early, -0.2)), stats.norm.cdf(searched(late, early, 0.2))
    assert found["p"] == pytest.approx(max(below, above) if hypothesis == "equivalence" else below if higher else above, rel=1e-6)


def searched(first: Any, second: Any, null: float) -> float:
    (x1, n1), (x2, n2) = first, second

    def surprise(risk: float) -> float:
        return -float(stats.binom.logpmf(x1, n1, risk) + stats.binom.logpmf(x2, n2, risk - null))

    risk = minimize_scalar(surprise, bounds=(max(0.0, null), min(1.0, 1 + null)), method="bounded", options={"xatol": 1e-12}).x
    other = risk - null
    return float((x1 / n1 - x2 / n2 - null) / np.sqrt(risk * (1 - risk) / n1 + other * (1 - other) / n2))


@pytest.mark.parametrize(
    ("first", "second", "null"), [((0, 20), (0, 30), 0.1), ((20, 20), (30, 30), -0.3), ((0, 20), (5, 30), -0.1), ((9, 9), (0, 8), 0.5)]
)
def test_the_likeliest_risks_at_the_ends(first: Any, second: Any, null: float) -> None:
    assert restricted_score(first, second, null) == pytest.approx(searched(first, second, null), rel=1e-5)


def test_analysis_of_variance_with_hospitals(wine: pd.DataFrame, ask: Any, part: Part) -> None:
    sites = part(wine, "alcohol")
    features = (Feature(name="alcohol"), category("kind", "one", "two", "three"))
    found = ask(Anova(formula="alcohol ~ kind", features=features), sites).frame("Analysis of variance")
    placed = pd.concat([rows.assign(hospital=place) for place, rows in enumerate(sites)])
    oracle = sm.stats.anova_lm(ols("alcohol ~ C(kind) + C(hospital)", placed).fit(), typ=2)
    np.testing.assert_allclose(found["sum_of_squares"], oracle["sum_sq"], rtol=1e-8)
    np.testing.assert_allclose(found["statistic"][:2], oracle["F"][:2], rtol=1e-8)
    np.testing.assert_allclose(found["p"][:2], oracle["PR(>F)"][:2], rtol=1e-7)
    pooled = ask(Anova(formula="alcohol ~ kind", features=features, sites="pooled"), sites)
    assert pooled.frame("Analysis of variance")["statistic"][0] == pytest.approx(135.077624242799, rel=1e-11)
    np.testing.assert_allclose(pooled.frame("Groups")["mean"], [wine.loc[wine["kind"] == one, "alcohol"].mean() for one in ("one", "two", "three")])


def test_a_table_of_counts(wine: pd.DataFrame, ask: Any, part: Part) -> None:
    method = Contingency(formula="pale ~ kind", features=(category("pale", "no", "yes"), category("kind", "one", "two", "three")))
    found = ask(method, part(wine, "alcohol"))
    oracle = stats.chi2_contingency(pd.crosstab(wine["kind"], wine["pale"]), correction=False)
    line = found.frame("Association").iloc[0]
    assert (line["statistic"], line["p"]) == (pytest.approx(oracle.statistic, rel=1e-12), pytest.approx(oracle.pvalue, rel=1e-10))
    assert found.frame("Counts")["count"].sum() == len(wine)


def test_risks_are_those_of_the_second_group_against_the_first(wine: pd.DataFrame, ask: Any) -> None:
    method = Contingency(formula="strong ~ pale", features=(Feature(name="strong"), category("pale", "no", "yes")))
    found = ask(method, [wine.iloc[::2], wine.iloc[1::2]])
    share = wine.groupby("pale")["strong"].mean()
    lines = found.frame("Risks").set_index("term")["estimate"]
    assert lines["risk ratio"] == pytest.approx(share["yes"] / share["no"])
    assert lines["risk difference"] == pytest.approx(share["yes"] - share["no"])
    fisher = found.frame("Association").set_index("test").loc["Fisher's exact test", "p"]
    assert fisher == pytest.approx(stats.fisher_exact(pd.crosstab(wine["pale"], wine["strong"])).pvalue, rel=1e-9)


def tables(sites: list[pd.DataFrame], by: list[str]) -> list[Any]:
    placed = pd.concat([rows.assign(hospital=place) for place, rows in enumerate(sites)])
    parts = [rows for _, rows in placed.groupby(by)]
    return [pd.crosstab(r["pale"], r["strong"]).reindex(index=["yes", "no"], columns=[1.0, 0.0], fill_value=0).to_numpy() for r in parts]


@pytest.mark.parametrize(
    ("form", "sites", "by"),
    [("", "strata", ["hospital"]), (" + strata(late)", "strata", ["hospital", "late"]), (" + strata(late)", "pooled", ["late"])],
)
def test_mantel_and_haenszel(wine: pd.DataFrame, ask: Any, part: Part, form: str, sites: Any, by: list[str]) -> None:
    """With hospitals (and times of harvest) as strata; the pooled answer is that of statsmodels on all the tables."""
    given = part(wine, "late")
    features = (Feature(name="strong"), category("pale", "no", "yes"), category("late", "early", "late"))
    found = ask(MantelHaenszel(formula=f"strong ~ pale{form}", features=features, sites=sites), given)
    told = [table for table in tables(given, by) if (table.sum(axis=0) > 0).all() and (table.sum(axis=1) > 0).all()]
    oracle = StratifiedTable(told)
    line = found.frame("Common ratios").iloc[0]
    assert line["estimate"] == pytest.approx(oracle.oddsratio_pooled, rel=1e-9)
    np.testing.assert_allclose([line["low"], line["high"]], oracle.oddsratio_pooled_confint(), rtol=1e-9)
    tests = found.frame("Tests").set_index("test")
    assert tests.loc["Cochran-Mantel-Haenszel", "statistic"] == pytest.approx(oracle.test_null_odds().statistic, rel=1e-9)
    if len(told) > 1:
        assert tests.loc["same odds ratio: Breslow-Day", "statistic"] == pytest.approx(oracle.test_equal_odds().statistic, rel=1e-8)


def test_an_exposure_at_one_hospital_only_has_no_answer(wine: pd.DataFrame, ask: Any) -> None:
    features = (Feature(name="strong"), category("pale", "no", "yes"))
    found = ask(MantelHaenszel(formula="strong ~ pale", features=features), [wine[wine["pale"] == level] for level in ("no", "yes")])
    assert found.table("No answer").notes[0].startswith("No odds ratio")


QUESTIONS = [
    ("t_test", "alcohol ~ kind", {}, "categories"),
    ("t_test", "alcohol ~ pale + late", {}, "one column"),
    ("t_test", "~ pale", {}, "outcome ~ group"),
    ("t_test", "alcohol ~ pale + strata(late)", {}, "strata"),
    ("t_test", "alcohol ~ pale + weights(strong)", {}, "knows no weights"),
    ("t_test", "alcohol ~ pale", {"margin": 1.0}, "margin"),
    ("t_test", "alcohol ~ pale", {"hypothesis": "equivalence"}, "margin"),
    ("contingency", "pale ~ kind", {"hypothesis": "equivalence", "margin": 0.1}, "two groups"),
    ("mantel_haenszel", "kind ~ pale", {}, "two categories"),
    ("mantel_haenszel", "strong ~ pale + strata(alcohol)", {}, "no category"),
]


@pytest.mark.parametrize(("method", "formula", "options", "why"), QUESTIONS)
def test_questions_that_cannot_be_asked(method: str, formula: str, options: dict[str, Any], why: str) -> None:
    kinds = category("kind", "one", "two", "three")
    features = (Feature(name="alcohol"), Feature(name="strong"), category("pale", "no", "yes"), category("late", "early", "late"), kinds)
    with pytest.raises(BadStudy, match=why):
        catalogue.make(Analysis(method=method, formula=formula, options=options), features)


def test_a_rare_cell_is_refused() -> None:
    """Nine in one cell; in secret the tables of hospitals that are strata may have it, for they stay there."""
    counts = np.array([[40, 9], [30, 25]])
    group, ill = (np.repeat([0.0, 0, 1, 1], counts.ravel()), np.repeat([0.0, 1, 0, 1], counts.ravel()))
    frame = Frame({"ill": ill, "g": group}, np.arange(len(ill), dtype=np.uint64))
    features = (Feature(name="ill"), category("g", "a", "b"))
    table = Contingency(formula="ill ~ g", features=features)
    assert list(table.against(frame, Disclosure(), secure=True)) == ["fewer than 10 patients have g = a and ill = 1"]
    strata, pooled = (MantelHaenszel(formula="ill ~ g", features=features, sites=sites) for sites in ("strata", "pooled"))  # type: ignore[arg-type]
    assert not list(strata.against(frame, Disclosure(), secure=True))
    assert list(strata.against(frame, Disclosure(), secure=False)) and list(pooled.against(frame, Disclosure(), secure=True))
