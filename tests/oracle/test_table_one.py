"""Table 1 over hospitals is the pooled one, against pandas; standardised differences against their definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_wine

from aimer2.core.dataset import Frame
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadStudy
from aimer2.core.study import Analysis, Feature
from aimer2.statistics import catalogue
from aimer2.statistics.table_one import TableOne, standardised_difference

FEATURES = (
    Feature(name="alcohol"),
    Feature(name="ash"),
    Feature(name="colour", kind="category", categories=("pale", "middle", "dark")),
    Feature(name="kind", kind="category", categories=("one", "two", "three")),
)


@pytest.fixture(scope="module")
def wine() -> pd.DataFrame:
    rows: Any = load_wine()
    colour = np.array(["pale", "middle", "dark"])[np.digitize(rows.data[:, 9], [3.5, 5.5])]
    kind = np.array(["one", "two", "three"])[rows.target]
    ash = np.where(np.arange(178) % 9 == 0, np.nan, rows.data[:, 2])
    return pd.DataFrame({"alcohol": rows.data[:, 0], "ash": ash, "colour": np.where(np.arange(178) % 11 == 0, "", colour), "kind": kind})


def test_hospitals_are_asked(wine: pd.DataFrame, ask: Any, part: Callable[..., list[pd.DataFrame]]) -> None:
    found = ask(TableOne(formula="~ alcohol + colour + ash + strata(kind)", features=FEATURES), part(wine, "alcohol"))
    lines = found.frame().set_index(["column", "category"])
    assert list(dict.fromkeys(found.frame()["column"])) == ["alcohol", "colour", "ash"]
    for name in ("alcohol", "ash"):
        line, by = lines.loc[(name, "")], wine.groupby("kind")[name]
        for kind in ("one", "two", "three"):
            np.testing.assert_allclose([line[f"{kind}: value"], line[f"{kind}: spread"]], [by.mean()[kind], by.std()[kind]], rtol=1e-11)
        np.testing.assert_allclose([line["all: value"], line["all: spread"]], [wine[name].mean(), wine[name].std()], rtol=1e-11)
        expected = (by.mean()["one"] - by.mean()["three"]) / np.sqrt((by.var()["one"] + by.var()["three"]) / 2)
        assert line["difference_three"] == pytest.approx(expected, rel=1e-10)
        assert line["missing"] == wine[name].isna().sum()
    for colour in ("pale", "middle", "dark"):
        told = wine[(wine["kind"] == "two") & (wine["colour"] != "")]
        line = lines.loc[("colour", colour)]
        assert (line["two: value"], line["two: spread"]) == ((told["colour"] == colour).sum(), pytest.approx((told["colour"] == colour).mean()))


def test_standardised_differences_of_categories() -> None:
    """Of two levels it is Austin's (2009) formula for proportions; of three that of Yang and Dalton, whichever level is left out; by hand √⅓."""
    p, q = 0.3, 0.45
    assert standardised_difference(np.array([p, 1 - p]), np.array([q, 1 - q])) == pytest.approx((q - p) / np.sqrt((p * (1 - p) + q * (1 - q)) / 2))
    first, second = np.array([0.2, 0.3, 0.5]), np.array([0.4, 0.35, 0.25])
    whole = standardised_difference(first, second)
    assert whole == pytest.approx(standardised_difference(first[::-1], second[::-1])) == pytest.approx(np.sqrt(1 / 3))
    assert standardised_difference(first, first) == 0
    assert standardised_difference(np.array([1.0, 0]), np.array([0.0, 1])) == np.inf
    assert standardised_difference(np.array([0.5, 0.5, 0]), np.array([0.2, 0.8, 0])) == pytest.approx(
        standardised_difference(np.array([0.5, 0.5]), np.array([0.2, 0.8]))
    )


@pytest.mark.parametrize(
    ("formula", "why"), [("alcohol ~ ash + strata(kind)", "without a response"), ("~ ash", "the groups"), ("~ ash:alcohol + strata(kind)", "joined")]
)
def test_questions_that_cannot_be_asked(formula: str, why: str) -> None:
    with pytest.raises(BadStudy, match=why):
        catalogue.make(Analysis(method="table_one", formula=formula), FEATURES)


def test_a_rare_level_in_a_group_is_refused() -> None:
    """Nine of the second group are dark; and where a number is missing for all but nine of a group."""
    group, colour = np.repeat([0.0, 1], 40), np.concatenate([np.zeros(40), np.full(31, 0.0), np.full(9, 2.0)])
    number = np.where(np.arange(80) < 31, np.nan, 1.0)
    frame = Frame({"kind": group, "colour": colour, "ash": number}, np.arange(80, dtype=np.uint64))
    of_colour, of_ash = (TableOne(formula=f"~ {name} + strata(kind)", features=FEATURES) for name in ("colour", "ash"))
    assert list(of_colour.against(frame, Disclosure(), secure=True)) == ["fewer than 10 patients with kind = two have colour = dark"]
    assert list(of_ash.against(frame, Disclosure(), secure=True)) == ["fewer than 10 patients with kind = one have ash"]
