"""Known answers on parabolas: c = τ_eff (1 − (1 − h a)^K)/K, the optimum for small steps, FedAvg and FedProx for equal ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aimer2.algorithms.fedavg import FedAvg
from aimer2.algorithms.fednova import FedNova, steps_norm
from aimer2.algorithms.fedprox import FedProx
from aimer2.core.errors import BadUpdate
from aimer2.core.update import Update


def optimum(rounds: Any) -> float:
    return float(rounds.fixed_point(np.array([site.a for site in rounds.hospitals])))


def way(site: Any, h: float, momentum: float, mu: float) -> float:
    """How much of x − b the site's own training takes away, step by step."""
    x, v = 1.0, 0.0
    for _ in range(site.steps):
        v = momentum * v + site.a * x + mu * (x - 1.0)
        x -= h * v
    return 1.0 - x


def norm(steps: int, h: float, momentum: float, mu: float) -> float:
    """The paper's closed forms."""
    if mu:
        return float((1 - (1 - h * mu) ** steps) / (h * mu))
    return float((steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum))


@pytest.mark.parametrize(("momentum", "mu"), [(0.0, 0.0), (0.5, 0.0), (0.9, 0.0), (0.0, 0.7), (0.0, 3.0)])
def test_one_round_and_where_it_rests(rounds: Any, momentum: float, mu: float) -> None:
    norms = np.array([norm(site.steps, rounds.h, momentum, mu) for site in rounds.hospitals])
    pull = np.array([way(site, rounds.h, momentum, mu) for site in rounds.hospitals]) / norms * float(rounds.shares() @ norms)
    b = np.array([site.b for site in rounds.hospitals])
    path = rounds.run(FedNova(momentum=momentum, mu=mu), 300, start=3.0)
    assert path[1] == pytest.approx(3 - float((rounds.shares() * pull * (3 - b)).sum()), abs=1e-12)
    assert path[-1] == pytest.approx(rounds.fixed_point(pull), abs=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_the_norm_is_the_papers(steps: int) -> None:
    assert steps_norm(steps, 0.0, 0.0, 1.0) == steps
    for momentum in (0.3, 0.9):
        assert steps_norm(steps, momentum, 0.0, 1.0) == pytest.approx(norm(steps, 0.1, momentum, 0.0), rel=1e-12)
    for mu in (0.1, 2.0):
        assert steps_norm(steps, 0.0, mu, 0.1) == pytest.approx(norm(steps, 0.1, 0.0, mu), rel=1e-12)


def test_the_norm_of_momentum_with_a_pull_is_the_way_along_a_gradient_of_one() -> None:
    h, x, v = 0.1, 0.0, 0.0
    for _ in range(9):
        v = 0.5 * v + 1 + 0.7 * x
        x -= h * v
    assert steps_norm(9, 0.5, 0.7, h) == pytest.approx(-x / h, rel=1e-12)


@pytest.mark.parametrize(("momentum", "mu"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.7)])
def test_unequal_steps_do_not_move_the_optimum(rounds: Any, momentum: float, mu: float) -> None:
    """To first order in the learning rate: a hundredth of it leaves a hundredth of the bias; FedAvg's stays."""
    rounds.hospitals = [replace(site, steps=steps) for site, steps in zip(rounds.hospitals, (1, 3, 9), strict=True)]
    away, fedavg = [], []
    for h in (1e-2, 1e-4):
        rounds.h = h
        start = optimum(rounds)
        pulls = np.array([way(site, h, momentum, mu) for site in rounds.hospitals])
        norms = np.array([norm(site.steps, h, momentum, mu) for site in rounds.hospitals])
        away.append(abs(rounds.fixed_point(pulls / norms) - start))
        fedavg.append(abs(rounds.fixed_point(pulls) - start))
        rest = rounds.fixed_point(pulls / norms)
        assert rounds.run(FedNova(momentum=momentum, mu=mu), 3, start=rest)[-1] == pytest.approx(rest, abs=1e-12)
    assert away[1] == pytest.approx(away[0] / 100, rel=0.1)
    assert away[1] < 2e-3
    assert fedavg[1] > 0.5


def test_equal_steps_are_fedavg(rounds: Any) -> None:
    rounds.hospitals = [replace(site, steps=5) for site in rounds.hospitals]
    for eta in (1.0, 0.7):
        expected = rounds.run(FedAvg(server_learning_rate=eta), 20, start=3.0)
        assert rounds.run(FedNova(server_learning_rate=eta), 20, start=3.0) == pytest.approx(expected, abs=1e-13)


def test_equal_steps_with_a_pull_are_fedprox(rounds: Any) -> None:
    rounds.hospitals = [replace(site, steps=5) for site in rounds.hospitals]
    assert rounds.run(FedNova(mu=0.7), 20, start=3.0) == pytest.approx(rounds.run(FedProx(mu=0.7), 20, start=3.0), abs=1e-12)


def test_what_the_site_sends(rounds: Any) -> None:
    method = FedNova()
    update = rounds.local(method, method.init({"x": np.array([3.0])}), 1)
    assert update.sums["steps"]["x"].tolist() == [150.0]
    assert update.sums["weight"]["rows"].tolist() == [30.0]
    assert update.sums["difference"]["x"] == pytest.approx(30 * -(1 - 0.6**5) * 2.0 / 5)


def test_rows_that_add_up_to_nothing_are_refused() -> None:
    sums = {"difference": {"x": np.ones(1)}, "weight": {"rows": np.zeros(1)}, "steps": {"x": np.ones(1)}}
    with pytest.raises(BadUpdate):
        FedNova().update(FedNova().init({"x": np.zeros(1)}), Update(sums))
