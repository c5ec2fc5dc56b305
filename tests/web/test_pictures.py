"""Pictures on pages: no style that the pages' policy forbids, the numbers as a table, and no peak lost where a line is thinned."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from aimer2.charts.chart import Axis, Chart, Series
from aimer2.web.pages import HERE, Link, Pages
from aimer2.web.pictures import numbers, picture, thinned

EVIL = '"><script>alert(1)</script>'
LINES = Chart(
    title="AUC",
    x=Axis(title="round"),
    y=Axis(title="value"),
    series=(Series(name="a", mark="line", x=(1, 2), y=(0.5, 0.6)), Series(name="b", mark="line", x=(2,), y=(0.7,))),
)


def test_a_picture_has_no_style_and_no_script_inside() -> None:
    chart = LINES.model_copy(update={"title": EVIL, "description": EVIL})
    assert not re.search(r"<style|style=|<script", picture(chart))


def test_its_style_is_a_file_of_every_page() -> None:
    pages = Pages(HERE, product="x", navigation=[Link("Pages", "/")])
    address = pages.assets.address("pictures.css")
    found = pages.assets.find(address.removeprefix("/static/"))
    assert found is not None and b".picture" in found.content


def test_a_table_has_the_numbers_of_all_series_side_by_side() -> None:
    assert numbers(LINES) == (["round", "a", "b"], [(1, 0.5, None), (2, 0.6, 0.7)])


def test_a_table_of_estimates_has_their_names_and_intervals() -> None:
    series = Series(mark="intervals", x=(1.5, 0.8), y=(0, 1), low=(1.1, 0.5), high=(2.0, 1.2))
    forest = Chart(title="t", x=Axis(title="ratio"), y=Axis(scale="names", names=("age", "sex")), series=(series,))
    assert numbers(forest) == (("", "ratio", "2.5 %", "97.5 %"), [("age", 1.5, 1.1, 2.0), ("sex", 0.8, 0.5, 1.2)])


@given(st.lists(st.none() | st.floats(-1e9, 1e9, allow_nan=False), max_size=1500), st.integers(4, 300))
def test_thinning_keeps_both_ends_and_every_extreme(values: list[float | None], most: int) -> None:
    kept = thinned(values, most)
    known = [place for place, value in enumerate(values) if value is not None]
    assert len(kept) <= most and kept == sorted(set(kept)) and set(kept) <= set(known)
    if known:
        assert {known[0], known[-1]} <= set(kept)
        shown = [values[place] for place in kept]
        found = [value for value in values if value is not None]
        assert {min(found), max(found)} <= set(shown)
