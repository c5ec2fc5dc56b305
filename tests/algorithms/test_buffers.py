"""Every method trains a network with batch normalisation: running variances stay positive, also where sites take unequal numbers of steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

from aimer2.algorithms import catalogue
from aimer2.algorithms.aggregators.weighted_mean import WeightedMean
from aimer2.core import tree
from aimer2.core.dataset import Samples
from aimer2.core.protocols import Local
from aimer2.core.study import Target, Training
from aimer2.learners.recipe import Recipe
from aimer2.learners.torch import TorchLearner


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))


def hospital(seed: int, rows: int) -> Samples:
    rng = np.random.default_rng(seed)
    # nearly constant features: running variances fall towards 0 from their 1
    features = 0.05 * rng.normal(size=(rows, 3)) + seed
    return Samples(features.astype(np.float32), (features[:, 0] > seed).astype(np.int64), groups=np.eye(2)[np.arange(rows) % 2])


@pytest.mark.parametrize("name", [name for name in catalogue.names() if "trees" not in catalogue.frameworks(name)])
def test_a_network_with_running_means(name: str) -> None:
    method = catalogue.example(name)
    learner = TorchLearner(build, Recipe(Training(learning_rate=0.1), Target(name="y"), 10, (3,)), "cpu")
    learner.initialise(np.random.default_rng(1))
    sites = [(hospital(1, 40), 1), (hospital(2, 20), 30)]
    memory: list[dict[str, Any]] = [{}, {}]
    state = method.init(learner.parameters())
    first = dict(method.model(state))
    for round_number in range(1, 7):
        updates = []
        for number, (data, steps) in enumerate(sites):
            rng = np.random.default_rng(round_number)
            site = Local(data, learner, memory[number], rng, round_number, steps, 10)
            updates.append(method.local(method.broadcast(state), site))
        state = method.update(state, WeightedMean()(updates))
    model = method.model(state)
    assert {key: leaf.dtype for key, leaf in model.items()} == {key: leaf.dtype for key, leaf in first.items()}
    assert tree.is_finite(model)
    assert model["1.running_var"].min() > 0
    assert any(not np.array_equal(model[key], first[key]) for key in ("0.weight", "3.weight"))
    learner.load(model)
    assert np.isfinite(learner.predict(sites[0][0])).all()
