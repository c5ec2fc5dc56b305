"""The agent of a site lets every method's sums out: each is named on the method's page, has the layout that is asked for, and fits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

from aimer2.algorithms import catalogue
from aimer2.blobs.memory import MemoryStore
from aimer2.core.dataset import Samples
from aimer2.core.protocols import Local
from aimer2.core.study import Study, Target, Training
from aimer2.learners.numpy import NumpyLearner
from aimer2.learners.recipe import Recipe
from aimer2.learners.torch import TorchLearner
from aimer2.learners.trees import TreesLearner
from aimer2.models.linear import Logistic
from aimer2.models.trees import BoostedTrees
from aimer2.site.check import check_names, expect, layout_of, require_foretold
from aimer2.study.checkpoint import store


def a_study(method: str) -> Study:
    return Study(
        name="heart",
        question="Does the event follow from the findings?",
        purpose="A test",
        ethics="none needed: simulated",
        principal_investigator="A. Name",
        expires="2100-01-01",
        cohort={"dataset": "heart", "features": [{"name": "age"}], "target": {"name": "event"}},
        model={"framework": "numpy", "name": "logistic"},
        method={"name": method},
        privacy={"secure_aggregation": False, "why_not_secure": "a test"},
    )


@pytest.mark.parametrize("name", catalogue.names())
def test_its_sums_pass(name: str) -> None:
    method: Any = catalogue.example(name)
    recipe = Recipe(Training(), Target(name="event"), 10, (2,))
    learner: Any = NumpyLearner(lambda: Logistic(2), recipe)
    if "torch" in catalogue.frameworks(name):
        learner = TorchLearner(lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), recipe, "cpu")
    if "trees" in catalogue.frameworks(name):
        learner = TreesLearner(lambda: BoostedTrees(2, 1, trees=2, max_depth=2, bins=8), recipe)
    state, blobs = method.init(learner.parameters()), MemoryStore()
    received = method.broadcast(state)
    data = Samples(np.arange(20.0).reshape(10, 2) / 10, np.arange(10) % 2, groups=np.ones((10, 1)))
    sums = method.local(received, Local(data, learner, {}, np.random.default_rng(1), 1, 3, None)).sums
    expectation = expect(a_study(name), "train", {key: blobs.open(store(leaves, blobs)) for key, leaves in received.items()})
    check_names(sums, expectation)
    for key, leaves in sums.items():
        assert expectation.layouts.get(key, layout_of(leaves)) == layout_of(leaves), key
        assert blobs.open(store(leaves, blobs)).ref.size <= expectation.room(key, 1 << 20)
        if key not in expectation.layouts and expectation.words is not None:
            require_foretold(key, leaves, expectation.words)


def test_sums_of_the_size_of_the_model_are_held_to_its_layout() -> None:
    """What is not held to a layout could carry something else."""
    blobs = MemoryStore()
    for name in catalogue.names():
        if "trees" in catalogue.frameworks(name):
            # it has no such model, and foretells all that it sends
            continue
        method: Any = catalogue.example(name)
        received = method.broadcast(method.init({"v.weight": np.zeros((2, 2)), "w": np.zeros(9)}))
        layouts = expect(a_study(name), "train", {key: blobs.open(store(leaves, blobs)) for key, leaves in received.items()}).layouts
        assert layouts["difference"] == layout_of(received["model"]) != {}
        assert ("control" in layouts) == (name == "scaffold")
