"""Known answers on parabolas: Algorithm 1 in scalars, the true optimum whatever the local steps and whoever takes part, FedAvg as the limit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aimer2.algorithms.aggregators.weighted_mean import WeightedMean
from aimer2.algorithms.fedavg import FedAvg
from aimer2.algorithms.scaffold import Scaffold
from aimer2.core.errors import BadUpdate
from aimer2.core.update import Update


def optimum(rounds: Any) -> float:
    return float(rounds.fixed_point(np.array([site.a for site in rounds.hospitals])))


def federated(rounds: Any, method: Scaffold, cohorts: Iterable[Sequence[int]], start: float = 0.0) -> list[float]:
    state, path = method.init({"x": np.array([start])}), [start]
    for number, cohort in enumerate(cohorts, 1):
        state = method.update(state, WeightedMean()([rounds.local(method, state, site, number) for site in cohort]))
        path.append(float(state.model["x"][0]))
    return path


def by_hand(rounds: Any, method: Scaffold, cohorts: Iterable[Sequence[int]], start: float = 0.0) -> list[float]:
    """The paper's lines, option II by its formula with the local learning rate."""
    x, c, path, sites = start, 0.0, [start], rounds.hospitals
    own, known = [0.0] * len(sites), set[int]()
    for cohort in cohorts:
        known |= set(cohort)
        step, fresh = 0.0, dict[int, float]()
        for i in cohort:
            y = x
            for _ in range(sites[i].steps):
                y -= rounds.h * (sites[i].a * (y - sites[i].b) - own[i] + c)
            second = own[i] - c + (x - y) / (sites[i].steps * rounds.h)
            fresh[i] = second if method.option == 2 else sites[i].a * (x - sites[i].b)
            step += sites[i].rows * (y - x) / sum(sites[j].rows for j in cohort)
        x += method.server_learning_rate * step
        for i, value in fresh.items():
            own[i] = value
        c = sum(sites[i].rows * own[i] for i in known) / sum(sites[i].rows for i in known)
        path.append(x)
    return path


@pytest.mark.parametrize("option", [1, 2])
@pytest.mark.parametrize("eta", [1.0, 0.6])
def test_every_round_is_the_papers(rounds: Any, option: int, eta: float) -> None:
    method, everyone = Scaffold(option=option, server_learning_rate=eta), [(0, 1, 2)] * 12
    assert federated(rounds, method, everyone, 3.0) == pytest.approx(by_hand(rounds, method, everyone, 3.0), abs=1e-12)


@pytest.mark.parametrize("option", [1, 2])
def test_every_round_is_the_papers_when_some_take_part(rounds: Any, option: int) -> None:
    cohorts = [(0,), (1, 2), (0, 2), (1,), (0, 1, 2), (2,), (0, 1)]
    method = Scaffold(option=option)
    assert federated(rounds, method, cohorts, 3.0) == pytest.approx(by_hand(rounds, method, cohorts, 3.0), abs=1e-12)


@pytest.mark.parametrize("option", [1, 2])
def test_it_rests_at_the_optimum_where_fedavg_does_not(rounds: Any, option: int) -> None:
    assert rounds.run(Scaffold(option=option), 300)[-1] == pytest.approx(optimum(rounds), abs=1e-10)
    assert abs(rounds.run(FedAvg(), 300)[-1] - optimum(rounds)) > 0.05


@pytest.mark.parametrize("option", [1, 2])
def test_sites_that_take_turns_reach_the_optimum(rounds: Any, option: int) -> None:
    """Only with the factor |S|/N does c stay the mean over all sites when one of them sends its change."""
    rounds.h = 0.02
    path = federated(rounds, Scaffold(option=option), [(number % 3,) for number in range(1500)])
    assert path[-1] == pytest.approx(optimum(rounds), abs=1e-8)


def test_one_site_is_fedavg(rounds: Any) -> None:
    rounds.hospitals = rounds.hospitals[:1]
    assert rounds.run(Scaffold(), 10, start=3.0) == pytest.approx(rounds.run(FedAvg(), 10, start=3.0), abs=1e-13)


def test_one_step_at_each_is_fedavg(rounds: Any) -> None:
    rounds.hospitals = [replace(site, steps=1) for site in rounds.hospitals]
    assert rounds.run(Scaffold(), 10, start=3.0) == pytest.approx(rounds.run(FedAvg(), 10, start=3.0), abs=1e-13)


def test_the_first_round_is_fedavg_bit_for_bit(rounds: Any) -> None:
    assert rounds.run(Scaffold(), 1, start=np.pi) == rounds.run(FedAvg(), 1, start=np.pi)


def test_the_coordinators_control_is_the_mean_of_the_sites(rounds: Any) -> None:
    method = Scaffold()
    state = method.init({"x": np.array([3.0])})
    for number in range(1, 5):
        state = rounds.step(method, state, number)
        own = [memory["after"]["x"][0] for memory in rounds.memory]
        assert state.control["x"][0] == pytest.approx(float(rounds.shares() @ own), abs=1e-13)
    assert state.rows == 60.0


def test_a_round_asked_anew_gives_the_same_bits_and_moves_no_memory_twice(rounds: Any) -> None:
    method = Scaffold()
    state = rounds.step(method, method.init({"x": np.array([3.0])}), 1)
    first = rounds.local(method, state, 1, 2)
    kept = {name: {leaf: array.tobytes() for leaf, array in leaves.items()} for name, leaves in rounds.memory[1].items()}
    again = rounds.local(method, state, 1, 2)
    assert dict(first.sums) == dict(again.sums)
    assert kept == {name: {leaf: array.tobytes() for leaf, array in leaves.items()} for name, leaves in rounds.memory[1].items()}


def test_a_site_that_gains_patients_counts_with_them(rounds: Any) -> None:
    method = Scaffold()
    state = rounds.step(method, method.init({"x": np.array([3.0])}), 1)
    rounds.hospitals[0] = replace(rounds.hospitals[0], rows=40)
    state = rounds.step(method, state, 2)
    assert state.rows == 90.0
    own = [memory["after"]["x"][0] for memory in rounds.memory]
    assert state.control["x"][0] == pytest.approx(float(rounds.shares() @ own), abs=1e-13)


def test_what_the_site_sends(rounds: Any) -> None:
    method = Scaffold()
    update = rounds.local(method, method.init({"x": np.array([3.0])}), 1)
    assert update.sums["seen"]["rows"].tolist() == [30.0]
    assert update.sums["difference"]["x"] == pytest.approx(30 * -(1 - 0.6**5) * 2.0)
    assert update.sums["control"]["x"] == pytest.approx(30 * (1 - 0.6**5) * 2.0 / (5 * 0.1)), "the mean of the gradients met"


def test_rows_that_add_up_to_nothing_are_refused() -> None:
    sums = {"difference": {"x": np.ones(1)}, "weight": {"rows": np.ones(1)}, "control": {"x": np.ones(1)}, "seen": {"rows": np.zeros(1)}}
    with pytest.raises(BadUpdate):
        Scaffold().update(Scaffold().init({"x": np.zeros(1)}), Update(sums))
