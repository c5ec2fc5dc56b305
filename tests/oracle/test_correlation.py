"""Correlations and principal components over hospitals are the pooled ones, against scipy and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadStudy
from aimer2.core.study import Analysis, Feature
from aimer2.statistics import catalogue
from aimer2.statistics.correlation import Correlation

CANCER: Any = load_breast_cancer()
DATA = pd.DataFrame(CANCER.data, columns=[f"x{place}" for place in range(30)])


def question(count: int, **options: Any) -> Correlation:
    names = [f"x{place}" for place in range(count)]
    return Correlation(formula="~ " + " + ".join(names), features=tuple(Feature(name=name) for name in names), **options)


def test_correlations_of_hospitals(ask: Any, part: Any) -> None:
    data = DATA.assign(x1=DATA["x1"].where(np.arange(569) % 5 > 0), x0=DATA["x0"] + 1e7)
    found = ask(question(3, level=0.9), part(data, "x0")).frame("Correlations").set_index(["column", "other"])
    complete = data.dropna()
    for one, other in (("x0", "x1"), ("x0", "x2"), ("x1", "x2")):
        oracle = stats.pearsonr(DATA.loc[complete.index, one], DATA.loc[complete.index, other])
        line = found.loc[(one, other)]
        interval = oracle.confidence_interval(0.9)
        np.testing.assert_allclose(line[["estimate", "low", "high"]].to_numpy(float), [oracle.statistic, *interval], rtol=1e-7)
        assert line["p"] == pytest.approx(oracle.pvalue, rel=1e-5)


def test_principal_components_of_breast_cancer(ask: Any, part: Any) -> None:
    found = ask(question(30, components=5), part(DATA, "x0")).frame("Principal components")
    published = [13.281607682258, 5.69135461321, 2.817948977229, 1.980640474641, 1.648730547704]
    np.testing.assert_allclose(found["variance"], published, rtol=1e-10)
    scaled = (DATA - DATA.mean()) / DATA.std()
    oracle = PCA(5).fit(scaled)
    loadings = found[[f"loading_x{place}" for place in range(30)]].to_numpy()
    np.testing.assert_allclose(np.abs((loadings * oracle.components_).sum(axis=1)), 1, rtol=1e-10)
    np.testing.assert_allclose(found["share"], oracle.explained_variance_ratio_, rtol=1e-10)
    assert (np.take_along_axis(loadings, np.abs(loadings).argmax(axis=1)[:, None], axis=1) > 0).all()


def test_components_of_the_covariance(ask: Any) -> None:
    found = ask(question(4, components=4, scaled=False), [DATA.iloc[::2], DATA.iloc[1::2]]).frame("Principal components")
    np.testing.assert_allclose(found["variance"], PCA(4).fit(DATA.iloc[:, :4]).explained_variance_, rtol=1e-9)
    assert found["cumulative"].iloc[-1] == pytest.approx(1)


def test_a_column_that_does_not_vary_is_named(ask: Any) -> None:
    assert "x1" in ask(question(2), [DATA.assign(x1=3.0)]).table("No answer").notes[0]


@pytest.mark.parametrize(
    ("formula", "why"), [("~ a", "two or more"), ("a ~ b + c", "two or more"), ("~ a + g", "is a category"), ("~ a + b + strata(g)", "no strata")]
)
def test_questions_that_cannot_be_asked(formula: str, why: str) -> None:
    features = (*(Feature(name=name) for name in "abc"), Feature(name="g", kind="category", categories=("u", "v")))
    with pytest.raises(BadStudy, match=why):
        catalogue.make(Analysis(method="correlation", formula=formula), features)


def test_more_columns_than_the_patients_bear_are_refused() -> None:
    columns = {f"x{place}": np.arange(20.0) ** (place % 3) for place in range(10)}
    frame = Frame(columns, np.arange(20, dtype=np.uint64))
    assert list(question(10).against(frame, Disclosure(), secure=True)) == ["10 columns are too many for the patients"]
