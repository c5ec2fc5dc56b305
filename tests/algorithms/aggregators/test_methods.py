"""Every method works under every aggregator: where all sites say the same, the step is that of the weighted mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

from aimer2.algorithms import catalogue as methods
from aimer2.algorithms.aggregators import catalogue
from aimer2.core import tree
from aimer2.core.dataset import Samples
from aimer2.core.protocols import Aggregator, Local
from aimer2.core.study import Target, Training
from aimer2.learners.numpy import NumpyLearner
from aimer2.learners.recipe import Recipe
from aimer2.learners.torch import TorchLearner
from aimer2.models.linear import Logistic

ROUNDS, SITES = 3, 5


def path(method: str, aggregator: Aggregator) -> list[Any]:
    """The model after each round."""
    algorithm = methods.example(method)
    recipe = Recipe(Training(learning_rate=0.3), Target(name="y"), ROUNDS, (3,))
    learner: Any = NumpyLearner(lambda: Logistic(3), recipe)
    if "torch" in methods.frameworks(method):
        learner = TorchLearner(lambda: nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double(), recipe, "cpu")
    learner.initialise(np.random.default_rng(1))
    rows = np.random.default_rng(2).normal(size=(40, 3))
    data = Samples(rows, (rows[:, 0] > 0.2).astype(np.int64), groups=np.ones((40, 1)))
    memories: list[dict[str, Any]] = [{} for _ in range(SITES)]
    state, found = algorithm.init(learner.parameters()), []
    for number in range(1, ROUNDS + 1):
        updates = [
            algorithm.local(
                algorithm.broadcast(state),
                Local(data, learner, memory, np.random.default_rng(number), number, steps=2, batch_size=None),
            )
            for memory in memories
        ]
        state = algorithm.update(state, aggregator(updates))
        found.append(np.concatenate([tree.load(leaf).reshape(-1) for _, leaf in sorted(algorithm.model(state).items())]))
    return found


@pytest.mark.parametrize("aggregator", [name for name in catalogue.names() if name != "weighted_mean"])
@pytest.mark.parametrize("method", [name for name in methods.names() if "trees" not in methods.frameworks(name)])
def test_sites_that_agree_move_the_model_as_under_the_weighted_mean(method: str, aggregator: str) -> None:
    expected = path(method, catalogue.make("weighted_mean", 16, {}))
    assert np.abs(expected[-1]).max() > 1e-3
    assert np.allclose(path(method, catalogue.make(aggregator, 16, {})), expected, rtol=1e-9, atol=1e-12)
