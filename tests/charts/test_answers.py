"""Answers and their pictures: the numbers of a picture are those of its table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aimer2 import ask
from aimer2.charts.chart import Chart
from aimer2.client.tables import Tables
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import BadInput, NotFound
from aimer2.core.table import Table

OPEN = Disclosure(minimum_cell=1, exact_values="always")


@pytest.fixture(scope="module")
def sites() -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(3)
    time, arm = np.ceil(rng.exponential(40, 300)), pd.Categorical(rng.choice(["old", "new"], 300), categories=["old", "new"])
    whole = pd.DataFrame({"time": np.minimum(time, 100), "died": (time <= 100) * 1.0, "arm": arm, "age": rng.normal(60, 8, 300).clip(31, 89)})
    kind = np.where(whole["died"] == 0, "none", rng.choice(["relapse", "death"], 300))
    whole["kind"] = pd.Categorical(kind, categories=["none", "relapse", "death"])
    return {f"site-{place}": whole.iloc[place::3] for place in range(3)}


DAYS = tuple(float(day) for day in range(1, 101))


def test_survival_with_numbers_at_risk(sites: dict[str, pd.DataFrame]) -> None:
    tables = ask("kaplan_meier", "Surv(time, died) ~ arm", sites, edges=DAYS, disclosure=OPEN)
    chart = tables.plot().chart
    whole = pd.concat(sites.values())
    assert [one.name for one in chart.series] == ["old", "new"] and all((one.x[0], one.y[0], one.mark) == (0, 1, "step") for one in chart.series)
    old = tables.frame("Survival").query("group == 'old'")
    assert list(chart.series[0].y[1:]) == old["survival"].tolist() and list(chart.series[0].high[1:]) == old["high"].tolist()
    assert chart.counts is not None and chart.counts.at == (0, 20, 40, 60, 80, 100)
    for row in chart.counts.rows:
        own = whole[whole["arm"] == row.name]
        assert list(row.values) == [int((own["time"] >= max(time, 1e-9)).sum()) for time in chart.counts.at]
    assert Chart.model_validate_json(chart.model_dump_json()) == chart


def test_incidence_and_hazard_have_their_own(sites: dict[str, pd.DataFrame]) -> None:
    chart = ask("aalen_johansen", "Surv(time, kind) ~ 1", sites, edges=DAYS, disclosure=OPEN).plot().chart
    assert [one.name for one in chart.series] == ["all, relapse", "all, death"] and chart.series[0].y[0] == 0
    assert chart.counts is not None and chart.counts.rows[0].values[-1] == int((pd.concat(sites.values())["time"] >= 100).sum())
    [hazard] = ask("nelson_aalen", "Surv(time, died) ~ 1", sites, edges=DAYS, disclosure=OPEN).plots()
    assert hazard.chart.y.title == "cumulative hazard" and (np.diff(hazard.chart.series[0].y) >= 0).all()  # type: ignore[arg-type]


def test_a_forest_of_ratios_leaves_the_intercept_out(sites: dict[str, pd.DataFrame]) -> None:
    tables = ask("glm", "died ~ age + arm", sites, family="binomial", disclosure=OPEN)
    [picture] = tables.plots()
    lines = tables.frame().set_index("term").loc[["age", "arm = new"]]
    assert picture.chart.y.names == ("age", "arm = new") and picture.chart.x.scale == "log"
    assert list(picture.chart.series[0].x) == lines["odds_ratio"].tolist() and list(picture.chart.series[0].low) == lines["odds_ratio_low"].tolist()
    linear = ask("glm", "age ~ arm", sites).plot().chart
    assert linear.x.scale == "linear" and linear.rules[0].at == 0
    assert picture._repr_svg_().startswith("<svg")


def test_histograms_are_one_for_each_column(sites: dict[str, pd.DataFrame]) -> None:
    ranges = [{"name": "age", "minimum": 30, "maximum": 90}, {"name": "time", "minimum": 0, "maximum": 100}]
    tables = ask("describe", "~ age + time", sites, columns=ranges, bins=6, disclosure=OPEN)
    first, second = (picture.chart for picture in tables.plots())
    whole = pd.concat(sites.values())
    assert list(first.series[0].y) == np.histogram(whole["age"], np.linspace(30, 90, 7))[0].tolist() and second.x.title == "time"


def test_weeks_above_the_limit_are_marked() -> None:
    week = np.concatenate([np.repeat(np.arange(1.0, 30), 12), np.repeat(30.0, 90)])
    sites = {f"site-{place}": pd.DataFrame({"week": week[place::3]}) for place in range(3)}
    weeks = [{"name": "week", "minimum": 1, "maximum": 30}]
    chart = ask("surveillance", "~ week", sites, columns=weeks, detector="ears_c1", disclosure=OPEN).plot().chart
    assert [one.name for one in chart.series] == ["cases", "expected", "alarm"] and chart.series[-1].x == (30.0,)


def test_files_by_their_ending(tmp_path: Path, sites: dict[str, pd.DataFrame]) -> None:
    picture = ask("glm", "age ~ arm", sites).plot()
    for ending, begins in ((".svg", b"<?xml"), (".png", b"\x89PNG"), (".json", b"{")):
        picture.save(tmp_path / f"a{ending}")
        assert (tmp_path / f"a{ending}").read_bytes().startswith(begins)
    assert json.loads((tmp_path / "a.json").read_text())["title"] == "main: coefficients"
    with pytest.raises(BadInput, match="no file of a picture"):
        picture.save(tmp_path / "a.bmp")


def test_an_answer_without_a_picture_says_so() -> None:
    empty = Tables(
        [Table(analysis="a", method="glm", title="Coefficients", columns=("term", "estimate", "low", "high"), rows=(("x", None, None, None),))]
    )
    assert empty.plots() == ()
    with pytest.raises(NotFound, match="has a picture"):
        empty.plot()
