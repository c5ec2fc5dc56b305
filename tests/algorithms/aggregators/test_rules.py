"""Robust means against answers found by hand and by other means, and against a site that lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import trim_mean

from aimer2.algorithms.aggregators.centred_clipping import CentredClipping
from aimer2.algorithms.aggregators.geometric_median import GeometricMedian
from aimer2.algorithms.aggregators.krum import Krum
from aimer2.algorithms.aggregators.median import Median
from aimer2.algorithms.aggregators.norm_bounded import NormBounded
from aimer2.algorithms.aggregators.trimmed_mean import TrimmedMean
from aimer2.algorithms.aggregators.weighted_mean import WeightedMean
from aimer2.core import tree
from aimer2.core.errors import BadUpdate
from aimer2.core.protocols import Aggregator
from aimer2.core.update import Update

ROBUST: list[Any] = [Median(), TrimmedMean(byzantine=2), Krum(byzantine=2), Krum(byzantine=2, selected=3), GeometricMedian(), CentredClipping()]
ALL = [*ROBUST, NormBounded()]
IDS = [repr(aggregator).partition("block")[0] for aggregator in ALL]
Points = npt.NDArray[np.float64]


def update(mean: Any, rows: float = 1.0, **more: Any) -> Update:
    values = np.asarray(mean, np.float64)
    return Update({"difference": {"w": values * rows}, "weight": {"rows": np.array([rows])}, **more})


def mean_of(aggregator: Aggregator, points: Sequence[Any] | Points, rows: Sequence[float] | None = None) -> Points:
    total = aggregator(update(point, count) for point, count in zip(points, rows or [1.0] * len(points), strict=True))
    return np.asarray(tree.load(total.sums["difference"]["w"]) / tree.scalar(total.sums["weight"], "rows"))


def honest(sites: int = 7, size: int = 5, seed: int = 0) -> Points:
    return np.random.default_rng(seed).normal(1.0, 0.3, (sites, size))


def test_median_by_hand() -> None:
    assert mean_of(Median(), [[1.0, 9.0], [2.0, 7.0], [40.0, 8.0]]).tolist() == [2.0, 8.0]
    assert mean_of(Median(), [[1.0], [2.0], [4.0], [100.0]]).tolist() == [3.0]


def test_each_site_counts_once_whatever_rows_it_claims() -> None:
    """The second site's mean is 2, not 20, and 1e9 rows do not outvote the others."""
    assert mean_of(Median(), [[1.0], [2.0], [50.0]], [4.0, 10.0, 1e9]) == pytest.approx(2.0)


def test_trimmed_mean_by_hand_and_by_scipy() -> None:
    assert mean_of(TrimmedMean(), [[-100.0], [1.0], [2.0], [6.0], [1e9]]) == pytest.approx(3.0)
    points = honest(10)
    assert mean_of(TrimmedMean(byzantine=2), points) == pytest.approx(trim_mean(points, 0.2))


def test_krum_by_hand() -> None:
    """n = 5, f = 1: the two nearest count. Scores: 0: 1+4, 1: 1+1, 2: 1+4, 10: 64+1, 11: 81+1."""
    points = [[0.0], [1.0], [2.0], [10.0], [11.0]]
    assert mean_of(Krum(), points) == pytest.approx(1.0)
    assert mean_of(Krum(selected=2), points) == pytest.approx(0.5)


def test_krum_by_the_definition() -> None:
    points, f = honest(9), 2
    apart = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    scores = [sum(sorted(np.delete(apart[k], k))[: 9 - f - 2]) for k in range(9)]
    best = np.argsort(scores)
    assert mean_of(Krum(byzantine=f), points) == pytest.approx(points[best[0]])
    assert mean_of(Krum(byzantine=f, selected=3), points) == pytest.approx(points[best[:3]].mean(axis=0))


def test_geometric_median_by_hand() -> None:
    """Of a triangle of equal sides its centre; of one with an angle of 120° or more that corner; of four corners where the diagonals cross."""
    side = [[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]]
    assert mean_of(GeometricMedian(), side) == pytest.approx([0.5, np.sqrt(0.75) / 3])
    assert mean_of(GeometricMedian(), [[-10.0, 0.5], [0.0, 0.0], [10.0, 0.5]]) == pytest.approx([0.0, 0.0], abs=1e-4)
    assert mean_of(GeometricMedian(), [[0.0, 0.0], [4.0, 4.0], [0.0, 4.0], [100.0, -96.0]]) == pytest.approx([2.0, 2.0])


def test_geometric_median_by_a_general_minimiser() -> None:
    points = honest(8)
    found = minimize(lambda z: np.linalg.norm(points - z, axis=1).sum(), points.mean(axis=0), method="BFGS", options={"gtol": 1e-10})
    assert mean_of(GeometricMedian(), points) == pytest.approx(found.x, abs=1e-5)


def test_norm_bounded_by_hand() -> None:
    """Lengths 5, 1, 10 are cut to 2; without a bound to their median, 5."""
    points = [[3.0, 4.0], [0.0, 1.0], [10.0, 0.0]]
    assert mean_of(NormBounded(bound=2.0), points) == pytest.approx([(1.2 + 0 + 2) / 3, (1.6 + 1 + 0) / 3])
    assert mean_of(NormBounded(), points) == pytest.approx([(3 + 0 + 5) / 3, (4 + 1 + 0) / 3])


@pytest.mark.parametrize(("tau", "iterations"), [(0.5, 1), (0.5, 4), (0.0, 10)])
def test_centred_clipping_by_the_definition(tau: float, iterations: int) -> None:
    points = honest()
    v = np.zeros(points.shape[1])
    for _ in range(iterations):
        away = points - v
        length = np.linalg.norm(away, axis=1)
        v = v + (away * np.minimum(1, (tau or np.median(length)) / length)[:, None]).mean(axis=0)
    assert mean_of(CentredClipping(tau=tau, iterations=iterations), points) == pytest.approx(v)


@pytest.mark.parametrize("aggregator", ALL, ids=IDS)
@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(7)))
def test_the_order_of_the_sites_does_not_matter(aggregator: Aggregator, order: list[int]) -> None:
    points = honest()
    assert mean_of(aggregator, points[order]) == pytest.approx(mean_of(aggregator, points), rel=1e-9)


@pytest.mark.parametrize("aggregator", ALL, ids=IDS)
def test_sites_that_agree_are_followed(aggregator: Aggregator) -> None:
    assert mean_of(aggregator, [[1.0, -2.0]] * 7) == pytest.approx([1.0, -2.0])
    assert mean_of(aggregator, [[0.0, 0.0]] * 7).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("lie", [-1e6, -1e15, np.nan, np.inf, 1e200])
@pytest.mark.parametrize("aggregator", ROBUST, ids=IDS[:-1])
def test_two_liars_of_seven_do_not_carry_the_model_away(aggregator: Aggregator, lie: float) -> None:
    """Between the honest sites' numbers, or as near as the distance-based rules promise."""
    points = honest()
    lied = np.vstack([points[:5], points[5:] * lie])
    with np.errstate(all="ignore"):
        found = mean_of(aggregator, lied)
    low, high = points[:5].min(axis=0), points[:5].max(axis=0)
    slack = (high - low) if isinstance(aggregator, CentredClipping | GeometricMedian) else 1e-12
    assert np.all((low - slack <= found) & (found <= high + slack))


def test_a_liar_carries_the_mean_away_but_not_the_bounded_one() -> None:
    points = honest()
    points[6] *= -1e6
    lengths = np.linalg.norm(points, axis=1)
    assert np.linalg.norm(mean_of(WeightedMean(), points)) > 1e5
    assert np.linalg.norm(mean_of(NormBounded(), points)) <= np.median(lengths)


@pytest.mark.parametrize("aggregator", ALL, ids=IDS)
def test_the_other_sums(aggregator: Aggregator) -> None:
    """Metrics are added, of every site; a sum of the model's arrays goes by the rule; of the others it is sites × median."""
    more = [
        {"metrics": {"count": np.array([k], np.int64)}, "control": {"w": np.array([2.0, 2.0]) * rows}, "seen": {"rows": np.array([rows])}}
        for k, rows in enumerate([10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 1e9, 0.0])
    ]
    rows = [10.0] * 6 + [1e9, 0.0]
    total = aggregator(update([1.0, 1.0], count, **sums) for count, sums in zip(rows, more, strict=True))
    assert total.sums["metrics"]["count"].tolist() == [28]
    assert tree.scalar(total.sums["weight"], "rows") == tree.scalar(total.sums["seen"], "rows") == 70
    assert tree.load(total.sums["control"]["w"]) == pytest.approx([140.0, 140.0])
    assert tree.load(total.sums["difference"]["w"]) == pytest.approx([70.0, 70.0])


@pytest.mark.parametrize("aggregator", ALL, ids=IDS)
def test_updates_without_a_difference_are_added(aggregator: Aggregator) -> None:
    moments = [Update({"count": {"columns": np.array([2.0])}, "sum": {"columns": np.array([float(k)])}}) for k in range(3)]
    total = aggregator(moments)
    assert (total.sums["count"]["columns"].tolist(), total.sums["sum"]["columns"].tolist()) == ([6.0], [3.0])


@pytest.mark.parametrize("aggregator", ALL, ids=IDS)
def test_what_cannot_be_combined_is_refused(aggregator: Any) -> None:
    few = [update([1.0])] * (aggregator.sites_needed - 1)
    for updates, words in [
        ([], "no update"),
        (few, "sites answered"),
        ([update([1.0], 0.0)] * 7, "above 0"),
        ([*[update([1.0])] * 6, update([1.0, 2.0])], "shape"),
        ([*[update([1.0])] * 6, update([1.0], more={"w": np.zeros(1)})], "different sums"),
        ([Update({"difference": {"w": np.ones(1)}, "weight": {"n": np.ones(1)}})] * 7, "lacks 'rows'"),
    ]:
        with pytest.raises(BadUpdate, match=words):
            aggregator(updates)
