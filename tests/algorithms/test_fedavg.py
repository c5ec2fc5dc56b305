"""Known answers on parabolas: the round map x ← x − Σ p c (x − b) with c = 1 − (1 − h a)^K, and where it rests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aimer2.algorithms.fedavg import FedAvg, weighted
from aimer2.core.errors import BadUpdate
from aimer2.core.update import Update


def pull(rounds: Any) -> Any:
    return np.array([1 - (1 - rounds.h * site.a) ** site.steps for site in rounds.hospitals])


def test_one_round_by_hand(rounds: Any) -> None:
    # From 3 with h = 0.1: c = (0.40951, 0.92224, 0.0975), p = (1, 3, 2)/6, x − b = (5, 2, −4).
    expected = 3 - (1 / 6 * 0.40951 * 5 + 3 / 6 * 0.92224 * 2 + 2 / 6 * 0.0975 * -4)
    assert rounds.run(FedAvg(), 1, start=3.0)[1] == pytest.approx(expected, abs=1e-14)


def test_it_rests_where_the_pulls_balance(rounds: Any) -> None:
    fixed = rounds.fixed_point(pull(rounds))
    assert rounds.run(FedAvg(), 200)[-1] == pytest.approx(fixed, abs=1e-12)
    optimum = rounds.fixed_point(np.array([site.a for site in rounds.hospitals]))
    assert abs(fixed - optimum) > 0.05, "several local steps move the fixed point off the optimum: that is FedAvg's drift"


def test_every_round_takes_the_same_part_of_the_way(rounds: Any) -> None:
    path, fixed = rounds.run(FedAvg(), 10), rounds.fixed_point(pull(rounds))
    rate = 1 - float((rounds.shares() * pull(rounds)).sum())
    assert np.diff(np.log(np.abs(np.array(path) - fixed))) == pytest.approx(np.log(rate))


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.5])
def test_the_server_learning_rate_scales_the_step(rounds: Any, eta: float) -> None:
    plain, scaled = rounds.run(FedAvg(), 1, start=2.0)[1], rounds.run(FedAvg(server_learning_rate=eta), 1, start=2.0)[1]
    assert scaled - 2.0 == pytest.approx(eta * (plain - 2.0), rel=1e-14)


def test_the_site_sends_its_rows_times_its_way(rounds: Any) -> None:
    update = rounds.local(FedAvg(), FedAvg().init({"x": np.array([3.0])}), 1)
    assert update.sums["weight"]["rows"].tolist() == [30.0]
    assert update.sums["difference"]["x"] == pytest.approx(30 * -(1 - 0.6**5) * 2.0)


def test_the_received_model_is_not_changed(rounds: Any) -> None:
    model = {"x": np.array([3.0])}
    state = FedAvg().init(model)
    rounds.step(FedAvg(), state)
    assert model["x"][0] == state.model["x"][0] == 3.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_types_stay(dtype: str) -> None:
    state = FedAvg(server_learning_rate=0.3).init({"w": np.ones(3, dtype)})
    difference = weighted(np.full(3, 2, dtype), np.ones(3, dtype), 7)
    assert difference.dtype == dtype
    moved = FedAvg(server_learning_rate=0.3).update(state, Update({"difference": {"w": difference}, "weight": {"rows": np.array([7.0])}}))
    assert moved.model["w"].dtype == dtype
    assert moved.model["w"].tolist() == pytest.approx([1.3] * 3, rel=1e-6)
    assert moved.round_number == 1


def test_it_ends_after_its_rounds(rounds: Any) -> None:
    method = FedAvg(rounds=2)
    state = method.init({"x": np.zeros(1)})
    ended = []
    for _ in range(3):
        ended.append(method.finished(state))
        state = rounds.step(method, state)
    assert ended == [False, False, True]


def test_another_model_is_refused() -> None:
    state = FedAvg().init({"w": np.zeros(3)})
    for odd in ({"v": np.zeros(3)}, {"w": np.zeros(4)}):
        with pytest.raises(BadUpdate):
            FedAvg().update(state, Update({"difference": odd, "weight": {"rows": np.array([7.0])}}))
