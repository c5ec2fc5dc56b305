"""What a site computes with trees: derivatives, margins that are kept between rounds, figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aimer2.core.dataset import Samples
from aimer2.core.errors import BadData, BadModel, NotAvailable
from aimer2.core.study import Target, Training
from aimer2.learners.recipe import Recipe
from aimer2.learners.trees import TreesLearner
from aimer2.models.trees import BoostedTrees

DATA = Samples(np.array([[0.0, 5.0], [2.0, 5.0], [np.nan, 5.0], [9.0, -5.0]]), np.array([0, 1, 1, 0]))


def learner(kind: str = "binary", outputs: int = 1) -> TreesLearner:
    target = Target(name="y", kind=kind, categories=("a", "b", "c") if outputs > 1 else ())
    return TreesLearner(lambda: BoostedTrees(2, outputs, trees=2, max_depth=2, bins=4), Recipe(Training(), target, 5, (2,), ()))


def stump(who: TreesLearner, **changes: Any) -> dict[str, Any]:
    """One tree: below 1 on the first feature −1, else +2; a missing value left."""
    model = dict(who.parameters())
    model["edges"] = np.array([[1.0, 5.0, 7.0], [0.0, 1.0, 2.0]])
    model["feature"][0, 0, 0], model["missing_left"][0, 0, 0] = 0, 1
    model["value"][0, 0, 1:3] = -1.0, 2.0
    model["count"][0, 0, :3] = 4, 2, 2
    return model | changes


def test_a_row_goes_where_its_value_is() -> None:
    who = learner()
    who.load(stump(who, base=np.array([0.5])))
    np.testing.assert_allclose(who.predict(DATA), 1 / (1 + np.exp(-np.array([-0.5, 2.5, -0.5, 2.5]))))


def test_a_value_on_the_edge_goes_right() -> None:
    who = learner("regression")
    who.load(stump(who))
    at, below = Samples(np.array([[1.0, 0.0]]), np.zeros(1)), Samples(np.array([[np.nextafter(1.0, 0.0), 0.0]]), np.zeros(1))
    assert (who.predict(at)[0], who.predict(below)[0]) == (2.0, -1.0)


@pytest.mark.parametrize(("kind", "outputs"), [("binary", 1), ("multiclass", 3), ("regression", 1)])
def test_derivatives_are_those_of_the_loss(kind: str, outputs: int) -> None:
    """Against differences of the summed loss; of a regression it tells the squared error, twice what is minimised."""
    who, step = learner(kind, outputs), 1e-5
    one = Samples(DATA.features[:1], np.array([1.5 if kind == "regression" else 1]))

    def loss(base: Any) -> float:
        who.load(dict(who.parameters()) | {"base": base})
        return float(who.evaluate(one)["loss"][0]) / (2 if kind == "regression" else 1)

    base = np.linspace(0.3, -0.4, outputs)
    loss(base)
    first, second = who.derivatives(one, 0)
    for output in range(outputs):
        move = step * np.eye(outputs)[output]
        high, middle, low = loss(base + move), loss(base), loss(base - move)
        assert first[0, output] == pytest.approx((high - low) / (2 * step), abs=1e-6)
        assert second[0, output] == pytest.approx((high - 2 * middle + low) / step**2, abs=1e-4)


@pytest.mark.parametrize(("kind", "outputs"), [("binary", 1), ("multiclass", 3), ("regression", 1)])
def test_figures_add_up_over_parts_also_where_nobody_is_held_out(kind: str, outputs: int) -> None:
    """Of five patients a fifth may be none: the site goes on, with figures of nobody."""
    who = learner(kind, outputs)
    who.load(stump(who))
    whole, parts = who.evaluate(DATA), [who.evaluate(DATA.at(np.arange(4)[part])) for part in (slice(0, 0), slice(0, 1), slice(1, 4))]
    for name, total in whole.items():
        np.testing.assert_allclose(sum(part[name] for part in parts), total, rtol=1e-12)
    assert (whole["count"], parts[0]["count"]) == ([4], [0])


def test_what_is_kept_changes_nothing() -> None:
    """Trees that changed, edges that moved, other rows: the same as a learner that has just begun."""
    who = learner()
    models = [stump(who), stump(who, base=np.array([1.0])), stump(who, edges=np.array([[8.0, 9.0, 10.0], [0.0, 1.0, 2.0]]))]
    deeper = stump(who)
    deeper["feature"][1, 0, 0], deeper["value"][1, 0, 1:3], deeper["count"][1, 0, 0] = 1, (3.0, 4.0), 4
    others = Samples(DATA.features[::-1].copy(), DATA.targets[::-1].copy())
    for model in (*models, deeper, models[0]):
        for data in (DATA, others, DATA):
            for number in (0, 1, 2, 1):
                fresh = learner()
                who.load(model)
                fresh.load(model)
                for kept, anew in zip(who.derivatives(data, number), fresh.derivatives(data, number), strict=True):
                    np.testing.assert_array_equal(kept, anew)
                np.testing.assert_array_equal(who.predict(data), fresh.predict(data))


def test_a_tree_that_grows_counts_for_the_figures_and_not_for_its_own_derivatives() -> None:
    who = learner()
    who.load(stump(who))
    assert who.predict(DATA)[0] < 0.5
    np.testing.assert_array_equal(who.derivatives(DATA, 0)[0][:, 0], np.array([0.5, -0.5, -0.5, 0.5]))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"feature": np.full((2, 1, 7), 2)}, "not there"),
        ({"feature": np.zeros((2, 1, 7), np.int64)}, "last level"),
        ({"value": np.zeros((2, 1, 3))}, "expected"),
        ({"bin": np.zeros((2, 1, 7))}, "expected"),
    ],
)
def test_trees_that_cannot_be_walked_are_refused(changes: dict[str, Any], told: str) -> None:
    who = learner()
    with pytest.raises(BadModel, match=told):
        who.load(stump(who, **changes))
    with pytest.raises(BadModel, match="arrays are"):
        who.load({"weight": np.zeros(2)})


def test_data_of_another_form_are_refused() -> None:
    with pytest.raises(BadData, match="shape"):
        learner().evaluate(Samples(np.zeros((2, 3)), np.zeros(2, np.int64)))
    with pytest.raises(BadData, match="class numbers"):
        learner().outcome(Samples(np.zeros((2, 2)), np.array([0, 2])))


def test_it_takes_no_steps_and_no_gpu() -> None:
    with pytest.raises(NotAvailable, match="grown"):
        learner().fit(DATA, steps=1, batch_size=None, round_number=1, rng=np.random.default_rng(0))
    with pytest.raises(NotAvailable, match="CPU"):
        TreesLearner(lambda: BoostedTrees(2, 1, 2, 2, 4), Recipe(Training(), Target(name="y"), 5, (2,), ()), "cuda")
