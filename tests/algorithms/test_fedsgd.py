"""Every round is a step of gradient descent on the pooled rows; FedAvg with one step over all rows, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aimer2.algorithms.fedavg import FedAvg
from aimer2.algorithms.fedsgd import FedSGD
from aimer2.client.simulate import federate
from aimer2.core.dataset import Samples
from aimer2.core.study import Target, Training
from aimer2.learners.numpy import NumpyLearner
from aimer2.learners.recipe import Recipe
from aimer2.models.linear import Logistic


def test_it_goes_the_way_of_gradient_descent_to_the_optimum(rounds: Any) -> None:
    a = np.array([site.a for site in rounds.hospitals])
    optimum, rate = rounds.fixed_point(a), 1 - rounds.h * float(rounds.shares() @ a)
    expected = [optimum + (3.0 - optimum) * rate**number for number in range(41)]
    assert rounds.run(FedSGD(), 40, start=3.0) == pytest.approx(expected, abs=1e-13)


def test_it_is_fedavg_with_one_step_bit_for_bit(rounds: Any) -> None:
    path = rounds.run(FedSGD(), 20, start=np.pi)
    rounds.hospitals = [replace(site, steps=1) for site in rounds.hospitals]
    assert path == rounds.run(FedAvg(), 20, start=np.pi)


def test_three_hospitals_are_one_whatever_steps_and_batches_the_study_names() -> None:
    rng = np.random.default_rng(4)
    features = rng.normal(size=(90, 3)) + np.repeat([[0.0], [1.0], [-2.0]], (15, 25, 50), axis=0)
    targets = (features[:, 0] + rng.normal(size=90) > 0).astype(np.int64)

    def trained(parts: dict[str, slice], steps: int, batch_size: int | None) -> Any:
        recipe = Recipe(Training(learning_rate=0.5), Target(name="y"), 30, (3,))
        sites = {name: (NumpyLearner(lambda: Logistic(3), recipe), Samples(features[part], targets[part])) for name, part in parts.items()}
        return federate(FedSGD(rounds=30), sites, rounds=30, steps=steps, batch_size=batch_size)

    pooled = trained({"all": slice(90)}, 1, None)
    apart = trained({"a": slice(15), "b": slice(15, 40), "c": slice(40, 90)}, 7, 8)
    for name, leaf in pooled.items():
        assert apart[name] == pytest.approx(leaf, abs=1e-13)
