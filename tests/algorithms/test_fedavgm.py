"""Known answers on parabolas: v ← βv + Δ, w ← w + ηv, where Δ = −C (x − x*) is FedAvg's step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aimer2.algorithms.fedavg import FedAvg
from aimer2.algorithms.fedavgm import FedAvgM


@pytest.mark.parametrize(("beta", "eta"), [(0.5, 1.0), (0.9, 0.3)])
def test_the_recursion(rounds: Any, beta: float, eta: float) -> None:
    c = np.array([1 - (1 - rounds.h * site.a) ** site.steps for site in rounds.hospitals])
    strength, rest = float((rounds.shares() * c).sum()), rounds.fixed_point(c)
    x, v, expected = 3.0, 0.0, [3.0]
    for _ in range(12):
        v = beta * v - strength * (x - rest)
        x += eta * v
        expected.append(x)
    assert rounds.run(FedAvgM(momentum=beta, server_learning_rate=eta), 12, start=3.0) == pytest.approx(expected, abs=1e-12)
    assert rounds.run(FedAvgM(momentum=beta, server_learning_rate=eta), 300)[-1] == pytest.approx(rest, abs=1e-6)


def test_without_momentum_it_is_fedavg_bit_for_bit(rounds: Any) -> None:
    for eta in (1.0, 0.7):
        expected = rounds.run(FedAvg(server_learning_rate=eta), 20, start=np.pi)
        assert rounds.run(FedAvgM(momentum=0.0, server_learning_rate=eta), 20, start=np.pi) == expected


def test_the_state_is_what_it_moves_with(rounds: Any) -> None:
    method = FedAvgM(momentum=0.5)
    first = rounds.step(method, method.init({"x": np.array([3.0])}))
    second = rounds.step(method, first)
    assert first.velocity["x"][0] == first.model["x"][0] - 3.0
    assert second.velocity["x"][0] == pytest.approx(second.model["x"][0] - first.model["x"][0], abs=1e-14)
    assert first.round_number == 1
