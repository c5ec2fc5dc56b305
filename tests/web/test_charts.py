"""Charts: numbers lie where they belong, no peak is lost, nothing in a name is markup."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimer2.web.charts import Bars, Chart, Estimate, Forest, Lines, Series, draw, tick
from aimer2.web.scales import linear, logarithmic, thinned

SVG = "{http://www.w3.org/2000/svg}"
finite = st.floats(-1e9, 1e9, allow_nan=False)


def drawn(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(str(draw(chart)))


@given(st.lists(finite, min_size=1, max_size=30))
def test_a_linear_scale_holds_every_value_between_its_ends(values: list[float]) -> None:
    scale = linear(values, 0, 100)
    assert all(-1e-6 <= scale(value) <= 100 + 1e-6 for value in values)
    assert 2 <= len(scale.marks) <= 12
    gaps = [b - a for a, b in zip(scale.marks, scale.marks[1:], strict=False)]
    assert max(gaps) == pytest.approx(min(gaps))


def test_marks_are_round_numbers() -> None:
    assert list(linear([0.13, 0.87], 0, 1).marks) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert list(linear([1, 1000], 0, 1, marks=7, whole=True).marks) == [200, 400, 600, 800, 1000]
    assert list(linear([1, 4], 0, 1, marks=7, whole=True).marks) == [1, 2, 3, 4]
    assert list(logarithmic([0.4, 6.0], 0, 1).marks) == [0.5, 1, 2, 5]
    assert list(logarithmic([0.8, 1.4], 0, 1).marks) == pytest.approx([0.8, 0.9, 1, 1.2, 1.5])


def test_a_logarithmic_scale_has_equal_ratios_at_equal_distances() -> None:
    scale = logarithmic([0.25, 4.0], 0, 100)
    assert scale(1.0) - scale(0.5) == pytest.approx(scale(2.0) - scale(1.0))


@given(st.lists(finite, min_size=1, max_size=2000), st.integers(4, 300))
def test_thinning_keeps_both_ends_and_every_extreme(values: list[float], most: int) -> None:
    points = [(float(place), value) for place, value in enumerate(values)]
    kept = thinned(points, most)
    assert len(kept) <= max(most, 4)
    assert [kept[0], kept[-1]] == [points[0], points[-1]]
    assert list(kept) == sorted(kept, key=lambda point: point[0])
    assert {min(values), max(values)} <= {value for _, value in kept}


def test_a_line_of_a_thousand_rounds_is_small_and_rises_where_its_values_rise() -> None:
    curve = [(float(n), 1 - math.exp(-n / 200)) for n in range(1, 1001)]
    picture = draw(Lines("AUC", "rises", "round", "AUC", [Series("AUC", curve)]))
    assert len(picture) < 12_000
    path = drawn(Lines("AUC", "rises", "round", "AUC", [Series("AUC", curve)])).find(f"{SVG}path[@class='line s0']")
    assert path is not None
    places = [float(y) for y in re.findall(r" ([\d.]+)", path.get("d", ""))]
    assert places == sorted(places, reverse=True)


def test_a_step_holds_its_value_until_the_next() -> None:
    chart = Lines("Survival", "falls", "day", "share", [Series("all", [(0, 1.0), (5, 0.5), (9, 0.25)])], steps=True)
    path = drawn(chart).find(f"{SVG}path[@class='line s0']")
    assert path is not None
    assert re.fullmatch(r"M[\d.]+ [\d.]+(H[\d.]+V[\d.]+){2}", path.get("d", ""))


def test_a_bar_over_its_limit_is_marked() -> None:
    chart = Bars("ε", "spent", "ε", [("one", 0.5), ("two", 3.0)], limit=2.0)
    assert [bar.get("class") for bar in drawn(chart).iter(f"{SVG}rect")] == ["bar", "bar over"]


def test_an_estimate_lies_within_its_interval() -> None:
    chart = Forest("Hazard ratios", "of three sites", "ratio", [Estimate("a", 1.5, 0.9, 2.5), Estimate("b", 0.7, 0.5, math.nan)], 1.0, ratio=True)
    picture = drawn(chart)
    whiskers = [path.get("d", "") for path in picture.iter(f"{SVG}path") if path.get("class") == "whisker"]
    assert len(whiskers) == 1
    low, high = (float(text) for text in re.findall(r"M([\d.]+) .*H([\d.]+)", whiskers[0])[0])
    middle = float(next(picture.iter(f"{SVG}rect")).get("x", "")) + 4.5
    assert low < middle < high
    assert middle - low == pytest.approx((high - low) * math.log(1.5 / 0.9) / math.log(2.5 / 0.9), abs=0.2)


EVIL = '"><script>alert(1)</script>'


@pytest.mark.parametrize(
    "chart",
    [
        Lines(EVIL, EVIL, EVIL, EVIL, [Series(EVIL, [(1, 2)], band=[(1, 1, 3)])]),
        Bars(EVIL, EVIL, EVIL, [(EVIL, 1)], 2),
        Forest(EVIL, EVIL, EVIL, [Estimate(EVIL, 1, 0, 2)], 1),
    ],
)
def test_no_name_is_markup(chart: Chart) -> None:
    picture = drawn(chart)
    assert "<script" not in draw(chart)
    assert EVIL in picture.get("aria-label", "")
    assert not [each for each in picture.iter() if each.get("style")], "the pages' policy forbids it"


@pytest.mark.parametrize("chart", [Lines("t", "d", "x", "y", []), Bars("t", "d", "x", []), Forest("t", "d", "x", [])])
def test_a_chart_without_numbers_is_still_a_picture(chart: Chart) -> None:
    assert drawn(chart).tag == f"{SVG}svg"


def test_a_table_has_the_numbers_of_all_series_side_by_side() -> None:
    chart = Lines("t", "d", "round", "y", [Series("a", [(1, 0.5), (2, 0.6)]), Series("b", [(2, 0.7)])])
    assert chart.head == ("round", "a", "b")
    assert chart.rows == [(1, 0.5, None), (2, 0.6, 0.7)]


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.2, "0.2"), (1500, "1500"), (0.00001, "1.0e-5"), (2e6, "2.0e6")])
def test_a_mark_is_short(value: float, text: str) -> None:
    assert tick(value) == text
