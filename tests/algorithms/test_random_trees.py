"""Leaves by hand; without depth it is Newton's method; where the splits come from; what a study of them may not ask for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aimer2.algorithms.random_trees import Growing, RandomTrees
from aimer2.core.dataset import Samples
from aimer2.core.errors import BadModel, BadUpdate
from aimer2.core.protocols import Local
from aimer2.core.study import Target, Training
from aimer2.core.update import Update, total
from aimer2.learners.recipe import Recipe
from aimer2.learners.trees import TreesLearner
from aimer2.models.trees import BoostedTrees as Form

FOUR = Samples(np.array([[-0.9], [-0.8], [0.8], [0.9]]), np.array([0, 0, 1, 1]))


def learner(form: Form) -> TreesLearner:
    return TreesLearner(lambda: form, Recipe(Training(), Target(name="y"), 10, (form.features,)))


def grow(method: RandomTrees, form: Form, sites: list[Samples]) -> Any:
    learners, state = [learner(form) for _ in sites], method.init(form.initial())
    while not method.finished(state):
        sent = method.broadcast(state)
        parts = [method.local(sent, Local(data, who, {}, np.random.default_rng(1), 1, 1, None)) for who, data in zip(learners, sites, strict=True)]
        state = method.update(state, total(parts))
    return state.model


def test_leaves_by_hand() -> None:
    """At p = 1/2: g = ±1/2, h = 1/4. A cut between the second and the third row leaves G = ±1 and H = 1/2 in each leaf."""
    drawing = next(number for number in range(99) if 1 <= RandomTrees(drawing=number).init(Form(1, 1, 1, 1, 8).initial()).model["bin"][0, 0, 0] <= 5)
    model = grow(RandomTrees(rounds=1, learning_rate=0.3, reg_lambda=1.0, drawing=drawing), Form(1, 1, trees=1, max_depth=1, bins=8), [FOUR])
    np.testing.assert_allclose(model["value"][0, 0], [0, -0.2, 0.2], atol=1e-12)
    # After w = ±0.2 p = 1/(1 + e^0.2) on the left: there G = 2p, H = 2p(1 − p).
    p = 1 / (1 + np.exp(0.2))
    model = grow(RandomTrees(rounds=2, reg_lambda=1.0, drawing=drawing), Form(1, 1, trees=2, max_depth=1, bins=2), [FOUR])
    assert model["bin"].max() == 0
    second = np.array([-1, 1]) * 0.3 * 2 * p / (2 * p * (1 - p) + 1)
    np.testing.assert_allclose(model["value"][:, 0, 1:], [[-0.2, 0.2], second], rtol=1e-6)


def test_without_depth_a_full_step_is_newtons() -> None:
    data = Samples(np.zeros((40, 1)), (np.arange(40) < 12).astype(np.int64))
    model = grow(RandomTrees(rounds=2, learning_rate=1.0, reg_lambda=0.0), Form(1, 1, trees=2, max_depth=0, bins=4), [data])
    first = -(40 * 0.5 - 12) / (40 * 0.25)
    p = 1 / (1 + np.exp(-first))
    np.testing.assert_allclose(model["value"][:, 0, 0], [first, -(40 * p - 12) / (40 * p * (1 - p))], rtol=1e-12)


def test_splits_are_drawn_without_data_over_all_features_cuts_and_sides() -> None:
    form = Form(5, 3, trees=40, max_depth=3, bins=8)
    model = RandomTrees().init(form.initial()).model
    inner = {name: model[name][:, :, :7] for name in ("feature", "bin", "missing_left")}
    for name, most in (("feature", 5), ("bin", 7), ("missing_left", 2)):
        assert np.bincount(inner[name].ravel(), minlength=most) / inner[name].size == pytest.approx(1 / most, rel=0.4)
    assert (model["feature"][:, :, 7:] == -1).all()
    assert not np.array_equal(inner["feature"][0, 0], inner["feature"][0, 1]) or not np.array_equal(inner["bin"][0, 0], inner["bin"][0, 1])
    other = RandomTrees(drawing=1).init(form.initial()).model
    assert not np.array_equal(other["feature"], model["feature"])


@pytest.mark.parametrize("name", ["feature", "bin", "missing_left", "edges"])
def test_a_site_tells_nothing_of_splits_that_the_study_does_not_draw(name: str) -> None:
    """Nor where an edge has moved by less than a hundredth: just so far as to have one patient alone below it."""
    method, form = RandomTrees(rounds=2), Form(2, 1, trees=2, max_depth=1, bins=4)
    local = Local(Samples(np.tile(FOUR.features, 2), FOUR.targets), learner(form), {}, np.random.default_rng(1), 1, 1, None)
    state = method.init(form.initial())
    method.local(method.broadcast(state), local)
    moved = state.model[name].copy()
    moved[(0,) * moved.ndim] = moved[(0,) * moved.ndim] + 1e-3 if name == "edges" else 1 - min(moved[(0,) * moved.ndim], 1)
    with pytest.raises(BadModel, match="not those that the study draws"):
        method.local(method.broadcast(Growing({**state.model, name: moved})), local)


def test_what_noise_has_left_below_0_has_no_curvature() -> None:
    method, form = RandomTrees(rounds=1, learning_rate=1.0, reg_lambda=2.0), Form(1, 1, trees=1, max_depth=1, bins=4)
    state = method.init(form.initial())
    sums = {"gradient": np.array([[3.0, -3.0]]), "curvature": np.array([[-9.0, 1.0]])}
    np.testing.assert_allclose(method.update(state, Update({"leaves": sums})).model["value"][0, 0], [0, -1.5, 1.0])
    with pytest.raises(BadUpdate):
        method.update(state, Update({"leaves": {name: leaf[:, :1] for name, leaf in sums.items()}}))


def test_other_models_and_trees_without_a_split_are_refused() -> None:
    with pytest.raises(BadModel):
        RandomTrees().init({"weight": np.zeros((1, 1))})
    form = Form(1, 1, trees=1, max_depth=1, bins=4)
    who = learner(form)
    with pytest.raises(BadModel):
        who.leaves(FOUR, 0)
