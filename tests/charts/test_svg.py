"""A chart on paper: every mark where its numbers say, every word escaped, ticks round."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from aimer2.charts.chart import Axis, Chart, Counts, CountsRow, Rule, Series
from aimer2.charts.png import png
from aimer2.charts.scale import powers, scale, steps
from aimer2.charts.svg import STYLE, svg

CURVE = Series(name="curve", mark="step", x=(0, 1, 2), y=(1, 0.5, 0.25), low=(1, 0.4, None), high=(1, 0.6, None))
CHART = Chart(title="A", x=Axis(low=0, high=2), y=Axis(low=0, high=1), series=(CURVE,))


def drawn(chart: Chart, **options: bool) -> ElementTree.Element:
    return ElementTree.fromstring(svg(chart, **options))


def marks(chart: Chart, kind: str) -> list[list[tuple[float, float]]]:
    """The corners of each path of this class."""
    paths = [one.attrib["d"] for one in drawn(chart).iter() if kind in one.attrib.get("class", "").split()]
    return [[(float(x), float(y)) for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", path)] for path in paths]


def test_steps_go_right_before_they_go_down_and_end_in_the_corners() -> None:
    [line] = marks(CHART, "line")
    (left, top), (middle, _), (_, half), (right, _), (_, quarter) = line
    assert line[1] == (middle, top) and line[2] == (middle, half) and line[3] == (right, half)
    assert middle - left == pytest.approx(right - middle, abs=0.2)
    assert quarter - half == pytest.approx((half - top) / 2, abs=0.2)
    [axes] = [one for one in drawn(CHART).iter() if one.attrib.get("d", "").count("V") and one.attrib["class"] == "axis"]
    corner = re.findall(r"[-\d.]+", axes.attrib["d"])
    assert (float(corner[0]), float(corner[1]), float(corner[3])) == (left, top, right)


def test_a_band_ends_where_its_numbers_end() -> None:
    [band] = marks(CHART, "band")
    assert max(x for x, _ in band) == pytest.approx(marks(CHART, "line")[0][1][0])
    assert len({y for _, y in band}) == 3


def test_a_gap_parts_a_line() -> None:
    gapped = Series(mark="line", x=(0, 1, 2, 3, 4), y=(1, 2, None, 4, 5))
    assert [len(run) for run in marks(CHART.model_copy(update={"series": (gapped,)}), "line")] == [2, 2]


def test_bars_stand_on_nought_and_have_their_own_width() -> None:
    bars = Series(mark="bars", x=(0, 1), to=(1, 3), y=(2, 4))
    chart = Chart(title="B", x=Axis(low=0, high=3), y=Axis(low=0), series=(bars,))
    paths = [re.findall(r"[-\d.]+", one.attrib["d"]) for one in drawn(chart).iter() if "bar" in one.attrib.get("class", "").split()]
    (x1, ground, top1, r1, _), (x2, ground2, top2, r2, _) = [list(map(float, path)) for path in paths]
    assert ground == ground2 and (ground - top2) == pytest.approx(2 * (ground - top1), abs=0.2)
    assert r1 == x2 and (r2 - x2) == pytest.approx(2 * (r1 - x1), abs=0.2)


def test_a_forest_on_a_logarithmic_axis() -> None:
    series = Series(mark="intervals", x=(1, 2), y=(0, 1), low=(0.5, 1), high=(2, 4))
    chart = Chart(
        title="F",
        x=Axis(scale="log"),
        y=Axis(scale="names", names=("one", "two")),
        series=(series,),
        rules=(Rule(axis="x", at=1),),
        beside=("1 (0.5–2)", "2 (1–4)"),
    )
    (first, second) = [re.findall(r"[-\d.]+", one.attrib["d"]) for one in drawn(chart).iter() if one.attrib.get("class") == "line c1"]
    assert float(first[2]) == pytest.approx((float(second[0]) + float(second[2])) / 2, abs=0.2)  # 2 lies half-way from 1 to 4
    assert float(first[1]) < float(second[1])  # the first name stands on top
    words = [one.text for one in drawn(chart).iter("{http://www.w3.org/2000/svg}text")]
    assert {"one", "two", "1 (0.5–2)", "0.5", "1", "2"} <= set(words)


def test_numbers_stand_below_their_times() -> None:
    counts = Counts(title="at risk", at=(0, 1, 2), rows=(CountsRow(name="all", values=(90, 45, None)),))
    texts = list(drawn(CHART.model_copy(update={"counts": counts})).iter("{http://www.w3.org/2000/svg}text"))
    at = {one.text: float(one.attrib["x"]) for one in texts if one.text in ("90", "45", "1.5")}
    ticks = [float(one.attrib["x"]) for one in texts if one.text == "1"]
    assert at["45"] in ticks and at["90"] < at["45"]


def test_words_are_escaped_and_a_page_can_have_the_style_elsewhere() -> None:
    evil = '<script>alert("1")</script>'
    counts = Counts(title=evil, at=(0.0,), rows=(CountsRow(name=evil, values=(1,)),))
    series = tuple(CURVE.model_copy(update={"name": evil + "x" * place}) for place in range(2))
    chart = Chart(title=evil, description=evil, x=Axis(title=evil), y=Axis(title=evil, scale="names", names=(evil,)), series=series, counts=counts)
    written = svg(chart.model_copy(update={"beside": (evil,)}), styled=False)
    assert (
        "<script" not in written
        and "<style" not in written
        and " style=" not in written
        and "http" not in written.replace("http://www.w3.org/2000/svg", "")
    )
    assert {"title", "desc"} <= {one.tag.rpartition("}")[2] for one in ElementTree.fromstring(written).iter()}
    assert STYLE in svg(chart)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, (0, 0.2, 0.4, 0.6, 0.8, 1)),
        (0, 1022, (0, 250, 500, 750, 1000)),
        (-3.1, 7, (-2.5, 0, 2.5, 5)),
        (1e-9, 3e-9, (1e-9, 1.5e-9, 2e-9, 2.5e-9, 3e-9)),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: tuple[float, ...]) -> None:
    found = steps(low, high)
    assert found == pytest.approx(expected) and len(found) <= 7


def test_ticks_of_a_logarithmic_axis() -> None:
    assert powers(0.4, 2.2) == (0.5, 1, 2) and powers(0.001, 1000)[::3] == (0.001, 1, 1000)
    assert len(powers(1.1, 1.4)) >= 3 and len(powers(1e-30, 1e30)) < 10


@pytest.mark.parametrize("values", [(), (None,), (5.0,), (0.0, 0.0), (-1e300, 1e300)])
def test_an_axis_has_two_ends_whatever_the_numbers(values: tuple[float | None, ...]) -> None:
    chart = Chart(title="E", series=(Series(mark="points", x=values, y=values),))
    found = scale(chart, "x", 0, 100)
    assert found.low < found.high and drawn(chart) is not None


def test_parts_of_different_lengths_are_no_series() -> None:
    with pytest.raises(ValidationError, match="one length"):
        Series(mark="line", x=(1, 2), y=(1,))
    with pytest.raises(ValidationError, match="intervals need both"):
        Series(mark="intervals", x=(1,), y=(1,))
    with pytest.raises(ValidationError, match="a number for each place"):
        Counts(title="", at=(1.0,), rows=(CountsRow(name="a", values=()),))


def test_the_same_chart_as_pixels() -> None:
    """A bar over the left half of the chart colours the left half of its lower part."""
    chart = Chart(title="P", x=Axis(low=0, high=2), y=Axis(low=0, high=1), series=(Series(mark="bars", x=(0,), to=(1,), y=(1,)),))
    with Image.open(io.BytesIO(png(chart, width=400, pixels_per_point=1.0))) as image:
        pixels = np.asarray(image.convert("RGB"), int)
    assert pixels.shape[1] == 400
    blue = (pixels[..., 2] - pixels[..., 0]) > 60
    rows = blue[pixels.shape[0] // 2 - 20 : pixels.shape[0] // 2 + 20]
    across = np.flatnonzero(rows.all(axis=0))
    assert 120 < len(across) < 200 and across.max() < 260
