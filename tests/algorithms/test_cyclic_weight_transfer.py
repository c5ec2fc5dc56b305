"""The model goes round, one site after the other; with one site it is FedAvg; it is refused where single models may not be seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aimer2.algorithms import catalogue
from aimer2.algorithms.cyclic_weight_transfer import CyclicWeightTransfer
from aimer2.algorithms.fedavg import FedAvg


def test_each_turn_by_hand(rounds: Any) -> None:
    """Site k brings x to b + (1 − h·a)^K (x − b); the order is that of the names."""
    method = CyclicWeightTransfer(rounds=4)
    state, x = method.init({"x": np.array([3.0])}), 3.0
    for number in range(1, 5):
        (turn,) = method.select(state, ("2", "0", "1"))
        assert turn == str((number - 1) % 3)
        state = method.update(state, rounds.local(method, state, int(turn), number))
        site = rounds.hospitals[int(turn)]
        x = site.b + (1 - 0.1 * site.a) ** site.steps * (x - site.b)
        assert state.model["x"][0] == pytest.approx(x, abs=1e-13)
    assert method.finished(state)


def test_with_one_site_it_is_fedavg(rounds: Any) -> None:
    rounds.hospitals = rounds.hospitals[:1]
    assert rounds.run(CyclicWeightTransfer(), 5, start=3.0) == rounds.run(FedAvg(), 5, start=3.0)


def test_it_says_that_it_is_no_sum() -> None:
    assert not catalogue.is_additive("cyclic_weight_transfer")
    assert catalogue.is_additive("fedavg")
