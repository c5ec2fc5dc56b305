"""Known answers on parabolas for FedAdam, FedYogi and FedAdagrad: Algorithm 2 in scalars, and the methods that they become in their limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aimer2.algorithms.fedadagrad import FedAdagrad
from aimer2.algorithms.fedadam import FedAdam
from aimer2.algorithms.fedavg import FedAvg
from aimer2.algorithms.fedavgm import FedAvgM
from aimer2.algorithms.fedyogi import FedYogi
from aimer2.core.protocols import Algorithm
from aimer2.core.update import Update

METHODS: list[Algorithm[Any]] = [
    FedAdam(server_learning_rate=0.3, beta_1=0.8, beta_2=0.95, tau=0.01),
    FedYogi(server_learning_rate=0.3, beta_1=0.8, beta_2=0.95, tau=0.01),
    FedAdagrad(server_learning_rate=0.3, beta_1=0.8, tau=0.01),
]


def square(method: Any, v: float, d2: float) -> float:
    match method:
        case FedAdam():
            return float(method.beta_2 * v + (1 - method.beta_2) * d2)
        case FedYogi():
            return float(v - (1 - method.beta_2) * d2 * np.sign(v - d2))
        case _:
            return v + d2


def by_hand(rounds: Any, method: Any, count: int, start: float) -> list[float]:
    c = np.array([1 - (1 - rounds.h * site.a) ** site.steps for site in rounds.hospitals])
    strength, rest = float((rounds.shares() * c).sum()), rounds.fixed_point(c)
    x, m, v, path = start, 0.0, method.tau**2, [start]
    for _ in range(count):
        delta = -strength * (x - rest)
        m = method.beta_1 * m + (1 - method.beta_1) * delta
        v = square(method, v, delta**2)
        x += method.server_learning_rate * m / (v**0.5 + method.tau)
        path.append(x)
    return path


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_every_round_is_the_papers(rounds: Any, method: Any) -> None:
    assert rounds.run(method, 40, start=3.0) == pytest.approx(by_hand(rounds, method, 40, 3.0), abs=1e-10)


def test_adagrad_rests_where_fedavg_does(rounds: Any) -> None:
    c = np.array([1 - (1 - rounds.h * site.a) ** site.steps for site in rounds.hospitals])
    assert rounds.run(FedAdagrad(server_learning_rate=1.0), 400)[-1] == pytest.approx(rounds.fixed_point(c), abs=1e-8)


def test_yogi_and_adam_part_after_a_large_difference() -> None:
    """From v = τ² a first Δ of 1 gives both 0.01; then a Δ of 0.01: Adam forgets 1 % of v, Yogi 1 % of Δ²."""
    adam, yogi = FedAdam(tau=1e-9), FedYogi(tau=1e-9)
    for method, expected in ((adam, 0.99 * 0.01 + 0.01 * 1e-4), (yogi, 0.01 - 0.01 * 1e-4)):
        state = method.init({"w": np.zeros(1)})
        for delta in (1.0, 0.01):
            state = method.update(state, sent({"w": np.array([delta])}, {"w": 0.0}))
        assert state.square["w"][0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", [FedAdam, FedYogi, FedAdagrad])
def test_with_a_large_tau_it_is_fedavgm(rounds: Any, kind: Any) -> None:
    tau, beta = 1e6, 0.5
    # v stays τ², so the denominator 2τ.
    adaptive = kind(server_learning_rate=2 * tau, beta_1=beta, tau=tau, **({} if kind is FedAdagrad else {"beta_2": 1 - 1e-12}))
    expected = rounds.run(FedAvgM(momentum=beta, server_learning_rate=1 - beta), 10, start=3.0)
    assert rounds.run(adaptive, 10, start=3.0) == pytest.approx(expected, abs=1e-5)


def test_without_memory_and_tau_every_weight_moves_by_the_learning_rate() -> None:
    method = FedAdam(server_learning_rate=0.25, beta_1=0.0, beta_2=0.0, tau=1e-12)
    moved = method.update(method.init({"w": np.zeros(3)}), sent({"w": np.array([5.0, -0.001, 0.0])}, {"w": 0.0}))
    assert moved.model["w"] == pytest.approx([0.25, -0.25, 0.0], abs=1e-8)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_running_means_are_averaged_and_types_stay(method: Any, dtype: str) -> None:
    start = {"w": np.ones(2, dtype), "running_var": np.full(2, 0.05, dtype)}
    total = sent({"w": np.full(2, -0.02, dtype), "running_var": np.full(2, -0.02, dtype)}, {"w": 0.0, "running_var": 7.0}, rows=7.0)
    moved = method.update(method.init(start), total)
    assert moved.model["running_var"] == pytest.approx([0.03, 0.03], rel=1e-5), "a step of 0.3 would make it negative"
    assert moved.model["w"][0] != pytest.approx(0.98)
    assert {leaf.dtype.name for leaves in (moved.model, moved.momentum, moved.square) for leaf in leaves.values()} == {dtype}
    plain = FedAvg().update(FedAvg().init(start), total)
    assert moved.model["running_var"].tolist() == plain.model["running_var"].tolist()


def sent(mean: dict[str, Any], marks: dict[str, float], rows: float = 7.0) -> Update:
    difference = {name: leaf * leaf.dtype.type(rows) for name, leaf in mean.items()}
    buffers = {name: np.array([mark]) for name, mark in marks.items()}
    return Update({"difference": difference, "weight": {"rows": np.array([rows])}, "buffers": buffers})
