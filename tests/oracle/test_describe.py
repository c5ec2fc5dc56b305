"""Descriptions over hospitals are those of the pooled data: against numpy, scipy and pandas, and NIST's certified values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.datasets import load_breast_cancer

from aimer2.core.study import Feature
from aimer2.statistics.describe import Describe


def features(*names: str) -> tuple[Feature, ...]:
    return tuple(Feature(name=name) for name in names)


@pytest.fixture(scope="module")
def cancer() -> pd.DataFrame:
    found: Any = load_breast_cancer(as_frame=True)
    return pd.DataFrame(
        {
            "radius": found.data["mean radius"],
            "area": found.data["mean area"].where(np.arange(569) % 7 > 0),
            "kind": np.where(found.target == 0, "malignant", "benign"),
        }
    )


def test_numbers_quantiles_and_categories_are_the_pooled_ones(cancer: pd.DataFrame, ask: Any, part: Callable[..., list[pd.DataFrame]]) -> None:
    shares = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
    kind = Feature(name="kind", kind="category", categories=("benign", "malignant", "unknown"))
    method = Describe(formula="~ radius + area + kind", features=(*features("radius", "area"), kind), quantiles=shares, tolerance=1e-12)
    found = ask(method, part(cancer, "radius"))
    numbers = found.frame("Numbers").set_index("column")
    for name in ("radius", "area"):
        values = cancer[name].dropna().to_numpy()
        line = numbers.loc[name]
        assert (line["count"], line["missing"]) == (len(values), 569 - len(values))
        np.testing.assert_allclose(line["mean"], values.mean(), rtol=1e-13)
        np.testing.assert_allclose(line["variance"], values.var(ddof=1), rtol=1e-12)
        np.testing.assert_allclose(line["skewness"], stats.skew(values), rtol=1e-11)
        np.testing.assert_allclose(line["kurtosis"], stats.kurtosis(values), rtol=1e-11)
        quantiles = line[[f"q{100 * share:g}" for share in shares]].to_numpy(float)
        np.testing.assert_allclose(quantiles, np.quantile(values, shares), rtol=1e-8)
    counts = found.frame("Categories").set_index("category")["count"]
    assert counts.to_dict() == {"benign": 357, "malignant": 212, "unknown": 0}


def test_the_published_figures_of_breast_cancer(cancer: pd.DataFrame, ask: Any) -> None:
    line = ask(Describe(formula="~ radius", features=features("radius")), [cancer]).frame().iloc[0]
    np.testing.assert_allclose(
        line[["mean", "standard_deviation", "skewness", "kurtosis"]].to_numpy(float),
        [14.127291739895, 3.524048826212, 0.939893445558, 0.827583673914],
        rtol=1e-12,
    )


def test_a_mean_that_dwarfs_the_spread_costs_no_digit(ask: Any) -> None:
    """NIST NumAcc4: 10000000.2, then 10000000.1 and 10000000.3 five hundred times each; mean 10000000.2, standard deviation 0.1."""
    values = np.array([10000000.2, *[10000000.1, 10000000.3] * 500])
    data = pd.DataFrame({"x": values})
    line = ask(Describe(formula="~ x", features=features("x")), [data.iloc[place::5] for place in range(5)]).frame().iloc[0]
    assert line["mean"] == pytest.approx(10000000.2, rel=1e-15)
    assert line["standard_deviation"] == pytest.approx(0.1, rel=1e-7)


def test_groups_are_described_apart(cancer: pd.DataFrame, ask: Any) -> None:
    kind = Feature(name="kind", kind="category", categories=("benign", "malignant", "unknown"))
    found = ask(Describe(formula="~ radius + strata(kind)", features=(*features("radius"), kind)), [cancer.iloc[::2], cancer.iloc[1::2]])
    lines = found.frame().set_index("group")
    expected = cancer.groupby("kind")["radius"]
    for name in ("benign", "malignant"):
        line = lines.loc[f"kind = {name}"]
        np.testing.assert_allclose([line["mean"], line["q50"]], [expected.mean()[name], expected.median()[name]], rtol=1e-8)
    assert lines.loc["kind = unknown"][["count", "mean", "q50"]].tolist()[0] == 0
    assert lines.loc["kind = unknown"][["mean", "q50"]].isna().all()


def test_histograms_count_every_value_once(cancer: pd.DataFrame, ask: Any) -> None:
    bounded = (Feature(name="radius", minimum=6, maximum=30),)
    found = ask(Describe(formula="~ radius", features=bounded, bins=8), [cancer.iloc[::2], cancer.iloc[1::2]]).frame("Histograms")
    expected, edges = np.histogram(cancer["radius"], bins=8, range=(6, 30))
    assert found["count"].tolist() == expected.tolist() and found["from"].tolist() == edges[:-1].tolist()
