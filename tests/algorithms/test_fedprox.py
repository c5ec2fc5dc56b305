"""Known answers on parabolas: c = a/(a+μ) · (1 − (1 − h(a+μ))^K); with μ = 0 FedAvg, with many steps the exact local solution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aimer2.algorithms.fedavg import FedAvg
from aimer2.algorithms.fedprox import FedProx


def pull(rounds: Any, mu: float) -> Any:
    return np.array([s.a / (s.a + mu) * (1 - (1 - rounds.h * (s.a + mu)) ** s.steps) for s in rounds.hospitals])


@pytest.mark.parametrize("mu", [0.1, 1.0, 3.0])
def test_one_round_and_where_it_rests(rounds: Any, mu: float) -> None:
    b = np.array([site.b for site in rounds.hospitals])
    path = rounds.run(FedProx(mu=mu), 300, start=3.0)
    assert path[1] == pytest.approx(3 - float((rounds.shares() * pull(rounds, mu) * (3 - b)).sum()), abs=1e-13)
    assert path[-1] == pytest.approx(rounds.fixed_point(pull(rounds, mu)), abs=1e-11)


def test_many_steps_solve_the_local_problem_exactly(rounds: Any) -> None:
    rounds.hospitals = [replace(site, steps=120) for site in rounds.hospitals]
    exact = np.array([site.a / (site.a + 2.0) for site in rounds.hospitals])
    assert rounds.run(FedProx(mu=2.0), 60)[-1] == pytest.approx(rounds.fixed_point(exact), abs=1e-12)


def test_a_stronger_pull_keeps_the_site_nearer(rounds: Any) -> None:
    steps = [abs(rounds.run(FedProx(mu=mu), 1, start=3.0)[1] - 3.0) for mu in (0.0, 0.1, 1.0, 5.0)]
    assert steps == sorted(steps, reverse=True)
    assert len(set(steps)) == 4


def test_without_a_pull_it_is_fedavg_bit_for_bit(rounds: Any) -> None:
    assert rounds.run(FedProx(mu=0.0), 20, start=np.pi) == rounds.run(FedAvg(), 20, start=np.pi)
    eta = {"server_learning_rate": 0.7}
    assert rounds.run(FedProx(mu=0.0, **eta), 20, start=np.pi) == rounds.run(FedAvg(**eta), 20, start=np.pi)


def test_the_anchor_is_the_received_model_and_does_not_follow(rounds: Any) -> None:
    # With one step the pull is zero at the anchor: any μ gives FedAvg. With two it is not.
    one = [replace(site, steps=1) for site in rounds.hospitals]
    two = [replace(site, steps=2) for site in rounds.hospitals]
    rounds.hospitals = one
    assert rounds.run(FedProx(mu=5.0), 1, start=1.0) == rounds.run(FedAvg(), 1, start=1.0)
    rounds.hospitals = two
    assert rounds.run(FedProx(mu=5.0), 1, start=1.0) != rounds.run(FedAvg(), 1, start=1.0)


def test_it_ends_after_its_rounds(rounds: Any) -> None:
    method = FedProx(rounds=1)
    state = method.init({"x": np.zeros(1)})
    assert not method.finished(state)
    assert method.finished(rounds.step(method, state))
