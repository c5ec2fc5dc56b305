"""Known answers on parabolas: Algorithm 1 in scalars, the true optimum whatever the local steps, FedProx as the first round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aimer2.algorithms.aggregators.weighted_mean import WeightedMean
from aimer2.algorithms.feddyn import FedDyn
from aimer2.algorithms.fedprox import FedProx
from aimer2.core.errors import BadUpdate
from aimer2.core.update import Update


def optimum(rounds: Any) -> float:
    return float(rounds.fixed_point(np.array([site.a for site in rounds.hospitals])))


def federated(rounds: Any, method: FedDyn, cohorts: Iterable[Sequence[int]], start: float = 0.0) -> list[float]:
    state, path = method.init({"x": np.array([start])}), [start]
    for number, cohort in enumerate(cohorts, 1):
        state = method.update(state, WeightedMean()([rounds.local(method, state, site, number) for site in cohort]))
        path.append(float(state.model["x"][0]))
    return path


def by_hand(rounds: Any, alpha: float, cohorts: Iterable[Sequence[int]], start: float) -> list[float]:
    x, path, sites = start, [start], rounds.hospitals
    lean, known = [0.0] * len(sites), set[int]()
    for cohort in cohorts:
        known |= set(cohort)
        reached = {}
        for i in cohort:
            y = x
            for _ in range(sites[i].steps):
                y -= rounds.h * (sites[i].a * (y - sites[i].b) - lean[i] + alpha * (y - x))
            reached[i] = y
        for i, y in reached.items():
            lean[i] -= alpha * (y - x)
        mean = sum(sites[i].rows * y for i, y in reached.items()) / sum(sites[i].rows for i in cohort)
        h = sum(sites[i].rows * lean[i] for i in known) / sum(sites[i].rows for i in known)
        x = mean - h / alpha
        path.append(x)
    return path


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_every_round_is_the_papers(rounds: Any, alpha: float) -> None:
    everyone = [(0, 1, 2)] * 12
    assert federated(rounds, FedDyn(alpha=alpha), everyone, 3.0) == pytest.approx(by_hand(rounds, alpha, everyone, 3.0), rel=1e-10)


def test_every_round_is_the_papers_when_some_take_part(rounds: Any) -> None:
    cohorts = [(0,), (1, 2), (0, 2), (1,), (0, 1, 2), (2,), (0, 1)]
    assert federated(rounds, FedDyn(alpha=2.0), cohorts, 3.0) == pytest.approx(by_hand(rounds, 2.0, cohorts, 3.0), rel=1e-10)


@pytest.mark.parametrize(("alpha", "steps"), [(0.5, 60), (2.0, 60), (2.0, 20)])
def test_it_rests_at_the_optimum_where_fedprox_does_not(rounds: Any, alpha: float, steps: int) -> None:
    rounds.hospitals = [replace(site, steps=steps) for site in rounds.hospitals]
    assert rounds.run(FedDyn(alpha=alpha), 60)[-1] == pytest.approx(optimum(rounds), abs=1e-8)
    assert abs(rounds.run(FedProx(mu=alpha), 20)[-1] - optimum(rounds)) > 0.05


def test_sites_that_take_turns_reach_the_optimum(rounds: Any) -> None:
    rounds.hospitals = [replace(site, steps=100) for site in rounds.hospitals]
    path = federated(rounds, FedDyn(alpha=2.0), [(number % 3,) for number in range(500)])
    assert path[-1] == pytest.approx(optimum(rounds), abs=1e-8)


def test_the_first_round_is_fedprox_at_twice_the_pace(rounds: Any) -> None:
    twice = FedProx(mu=0.5, server_learning_rate=2.0)
    assert rounds.run(FedDyn(alpha=0.5), 1, start=3.0) == pytest.approx(rounds.run(twice, 1, start=3.0), abs=1e-13)


def test_h_is_the_mean_of_what_the_sites_lean_by_also_when_one_gains_patients(rounds: Any) -> None:
    method = FedDyn(alpha=2.0)
    state = method.init({"x": np.array([3.0])})
    for number in range(1, 5):
        if number == 3:
            rounds.hospitals[0] = replace(rounds.hospitals[0], rows=40)
        state = rounds.step(method, state, number)
        kept = sum(memory["after"]["x"][0] for memory in rounds.memory)
        assert state.lean["x"][0] == pytest.approx(kept / state.rows, abs=1e-13)
    assert state.rows == 90.0


def test_a_round_asked_anew_gives_the_same_bits(rounds: Any) -> None:
    method = FedDyn(alpha=2.0)
    state = rounds.step(method, method.init({"x": np.array([3.0])}), 1)
    first = rounds.local(method, state, 1, 2)
    kept = rounds.memory[1]["after"]["x"].tobytes()
    assert dict(rounds.local(method, state, 1, 2).sums) == dict(first.sums)
    assert rounds.memory[1]["after"]["x"].tobytes() == kept


def test_running_means_are_averaged(rounds: Any) -> None:
    method = FedDyn(alpha=0.1)
    sums = {
        "difference": {"w": np.array([6.0]), "running_var": np.array([-6.0])},
        "weight": {"rows": np.array([3.0])},
        "seen": {"rows": np.array([3.0])},
        "buffers": {"w": np.zeros(1), "running_var": np.array([3.0])},
    }
    moved = method.update(method.init({"w": np.zeros(1), "running_var": np.array([3.0])}), Update(sums))
    assert moved.model["w"] == pytest.approx(4.0), "twice the mean, in the first round"
    assert moved.model["running_var"] == pytest.approx(1.0), "twice the mean would be negative"
    empty = {**sums, "seen": {"rows": np.zeros(1)}}
    with pytest.raises(BadUpdate):
        method.update(method.init({"w": np.zeros(1), "running_var": np.ones(1)}), Update(empty))
