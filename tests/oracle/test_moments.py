"""Federated moments are the pooled ones, to the last digits that float64 has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer

from aimer2.client.simulate import federate
from aimer2.core.dataset import Samples
from aimer2.core.errors import BadUpdate
from aimer2.core.study import Target, Training
from aimer2.core.update import Update
from aimer2.learners.numpy import NumpyLearner
from aimer2.learners.recipe import Recipe
from aimer2.statistics.moments import Moments


class Start:
    """What the stage starts from; nothing is trained."""

    def __init__(self, width: int) -> None:
        self.width = width

    def initial(self, rng: Any) -> dict[str, Any]:
        return {name: np.zeros(self.width) for name in ("count", "mean", "deviation")}

    def gradient(self, parameters: Any, features: Any, targets: Any) -> Any:
        raise AssertionError

    def predict(self, parameters: Any, features: Any) -> Any:
        return np.zeros(len(features))


def federated(parts: list[Any]) -> dict[str, Any]:
    width = parts[0].shape[1]
    recipe = Recipe(Training(), Target(name="y", kind="regression"), 2, (width,))
    sites = {f"site-{n}": (NumpyLearner(lambda: Start(width), recipe), Samples(part, np.zeros(len(part)))) for n, part in enumerate(parts)}
    return dict(federate(Moments(), sites, rounds=2))


def test_breast_cancer_over_four_sites() -> None:
    cancer: Any = load_breast_cancer()
    found = federated([cancer.data[number::4] for number in range(4)])
    assert found["count"].tolist() == [569.0] * 30
    np.testing.assert_allclose(found["mean"], cancer.data.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(found["deviation"], cancer.data.std(axis=0, ddof=1), rtol=1e-12)
    assert (found["mean"][0], found["deviation"][0]) == (pytest.approx(14.127291739895, rel=1e-12), pytest.approx(3.524048826212, rel=1e-12))


@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_a_small_spread_about_a_large_mean_keeps_its_digits(dtype: str) -> None:
    """NIST NumAcc4: mean 10000000.2, standard deviation 0.1; the one-pass formula gives a negative variance. And the same in whole numbers."""
    if dtype == "float64":
        values, mean, deviation = np.array([10000000.2] + [10000000.1, 10000000.3] * 500), 10000000.2, 0.1
    else:
        values, mean, deviation = np.array([10**9] + [10**9 - 1, 10**9 + 1] * 500), 1e9, 1.0
    assert np.mean(values**2) - np.mean(values) ** 2 != pytest.approx(deviation**2, rel=0.1)
    column = values.astype(dtype).reshape(-1, 1)
    found = federated([column[:100], column[100:350], column[350:]])
    assert found["mean"][0] == pytest.approx(mean, rel=1e-15)
    assert found["deviation"][0] == pytest.approx(deviation, rel=1e-7)


def test_single_precision_rows_lose_nothing_in_the_sum() -> None:
    column = np.full((100_000, 1), 16_777_217 / 7, np.float32)
    found = federated([column[:40_000], column[40_000:]])
    assert found["mean"][0] == pytest.approx(float(column[0, 0]), rel=1e-14)
    assert found["deviation"][0] == pytest.approx(0.0, abs=1e-6)


def test_missing_values_are_left_out() -> None:
    rng = np.random.default_rng(1)
    whole = rng.normal(5, 2, size=(300, 4))
    whole[rng.random(whole.shape) < 0.3] = np.nan
    whole[:100, 2] = np.nan  # missing at a whole site
    whole[:, 3] = np.nan  # missing everywhere
    found = federated([whole[:100], whole[100:]])
    there = whole[:, :3]
    assert found["count"].tolist() == [*(~np.isnan(there)).sum(axis=0), 0]
    np.testing.assert_allclose(found["mean"], [*np.nanmean(there, axis=0), 0.0], rtol=1e-13)
    np.testing.assert_allclose(found["deviation"], [*np.nanstd(there, axis=0, ddof=1), 0.0], rtol=1e-12)


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30),
    cuts=st.tuples(st.integers(0, 30), st.integers(0, 30)),
)
def test_any_division_among_sites_gives_the_pooled_answer(values: list[float], cuts: tuple[int, int]) -> None:
    whole = np.array(values).reshape(-1, 1)
    low, high = sorted(min(cut, len(values)) for cut in cuts)
    algorithm, parts = Moments(), [whole[:low], whole[low:high], whole[high:]]
    state = algorithm.init({name: np.zeros(1) for name in ("count", "mean", "deviation")})
    for number in (1, 2):
        state = algorithm.update(state, sum_of([sent(algorithm, state, part, number) for part in parts]))
    scale = float(np.abs(whole).max()) or 1.0
    assert state.model["count"][0] == len(values)
    assert state.model["mean"][0] == pytest.approx(float(whole.mean()), abs=1e-12 * scale)
    assert state.model["deviation"][0] == pytest.approx(float(whole.std(ddof=1)), abs=1e-11 * scale)


def test_a_site_lost_between_the_passes_leaves_the_others_moments_and_no_bias() -> None:
    """The lost site lies far away: its part of the first mean must not stay in the deviation."""
    rng = np.random.default_rng(5)
    staying, lost = [rng.normal(50, 3, (40, 1)), rng.normal(51, 3, (60, 1))], rng.normal(5000, 3, (100, 1))
    algorithm = Moments()
    state = algorithm.init({name: np.zeros(1) for name in ("count", "mean", "deviation")})
    state = algorithm.update(state, sum_of([sent(algorithm, state, part, 1) for part in (*staying, lost)]))
    state = algorithm.update(state, sum_of([sent(algorithm, state, part, 2) for part in staying]))
    whole = np.concatenate(staying)
    assert state.model["count"][0] == 100
    assert state.model["mean"][0] == pytest.approx(float(whole.mean()), rel=1e-12)
    assert state.model["deviation"][0] == pytest.approx(float(whole.std(ddof=1)), rel=1e-9)


def sent(algorithm: Moments, state: Any, part: Any, round_number: int) -> Update:
    site: Any = type("Site", (), {"data": Samples(part, np.zeros(len(part))), "round_number": round_number})
    return algorithm.local(algorithm.broadcast(state), site)


def sum_of(updates: list[Update]) -> Update:
    whole = updates[0]
    for update in updates[1:]:
        whole = whole + update
    return whole


@pytest.mark.parametrize("shape", [(3,), (2, 1), ()])
def test_sums_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    state = Moments().init({name: np.zeros(2) for name in ("count", "mean", "deviation")})
    with pytest.raises(BadUpdate):
        Moments().update(state, Update({"count": {"columns": np.ones(shape)}, "sum": {"columns": np.ones(shape)}}))
