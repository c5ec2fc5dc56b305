"""Boosted trees: the formulas by hand, the same trees however patients are spread, and as good as scikit-learn's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score

from aimer2.algorithms import boosted_trees, catalogue
from aimer2.algorithms.boosted_trees import CELLS, BoostedTrees, Growing, _bounds, _counted, _cut, _histograms
from aimer2.core.dataset import Samples
from aimer2.core.errors import BadModel, BadStudy, BadUpdate
from aimer2.core.protocols import Local
from aimer2.core.study import Target, Training
from aimer2.core.tree import Tree
from aimer2.core.update import Update, total
from aimer2.learners.recipe import Recipe
from aimer2.learners.trees import TreesLearner
from aimer2.models.trees import BoostedTrees as Form

CLASSES = ("a", "b", "c")


def learner(form: Form, kind: str = "binary") -> TreesLearner:
    target = Target(name="y", kind=kind, categories=CLASSES if kind == "multiclass" else ())
    return TreesLearner(lambda: form, Recipe(Training(), target, 10, (form.features,)))


def sent(method: BoostedTrees, state: Growing, who: TreesLearner, data: Samples) -> Update:
    rng = np.random.default_rng(0)
    return method.local(method.broadcast(state), Local(data=data, learner=who, memory={}, rng=rng, round_number=1, steps=1, batch_size=None))


def grow(method: BoostedTrees, form: Form, sites: Sequence[Samples], kind: str = "binary") -> Tree:
    there = [(learner(form, kind), data) for data in sites]
    state = method.init(there[0][0].parameters())
    while not method.finished(state):
        state = method.update(state, total([sent(method, state, who, data) for who, data in there]))
    return method.model(state)


def scores(form: Form, model: Tree, features: Any, kind: str = "binary") -> Any:
    who = learner(form, kind)
    who.load(model)
    return who.predict(Samples(features, np.zeros(len(features), np.int64)))


def spread(data: Samples, sites: int, seed: int) -> list[Samples]:
    """Unequally."""
    part = np.minimum(np.random.default_rng(seed).geometric(0.4, len(data)) - 1, sites - 1)
    return [Samples(data.features[part == site], data.targets[part == site]) for site in range(sites)]


def drawn(kind: str, rows: int = 300, seed: int = 1) -> Samples:
    rng = np.random.default_rng(seed)
    features = np.column_stack([rng.normal(60, 12, rows), rng.lognormal(0, 1, rows), rng.integers(0, 2, rows), rng.normal(size=rows)])
    features[rng.random(rows) < 0.1, 3] = np.nan
    signal = (features[:, 0] - 60) / 10 + features[:, 2] * np.log(features[:, 1]) + rng.normal(size=rows)
    targets = {"binary": (signal > 0).astype(np.int64), "regression": 100 + 7 * signal, "multiclass": np.digitize(signal, (-0.7, 0.7))}
    return Samples(features, targets[kind])


FOUR = Samples(np.arange(4.0).reshape(4, 1), np.array([0, 0, 1, 1]))
ALONE = {"min_leaf_rows": 1, "min_child_weight": 0.0}


@pytest.mark.parametrize(("gamma", "splits"), [(0.66, True), (0.67, False)])
def test_gain_and_leaves_by_hand(gamma: float, splits: bool) -> None:
    """At p = 1/2: g = ±1/2, h = 1/4. After the second row G = ±1, H = 1/2, so with λ = 1 the gain is ½·(2·1/1.5 − 0) = 2/3, w = ∓η/1.5."""
    model = grow(BoostedTrees(rounds=2, learning_rate=0.3, gamma=gamma, **ALONE), Form(1, 1, trees=1, max_depth=1, bins=4), [FOUR])  # type: ignore[arg-type]
    assert model["feature"].tolist() == [[[0 if splits else -1, -1, -1]]]
    np.testing.assert_allclose(model["value"][0, 0], [0, -0.2, 0.2] if splits else [0, 0, 0], atol=1e-12)
    if splits:
        assert model["edges"][0, model["bin"][0, 0, 0]] == pytest.approx(1.5, abs=0.02)
        assert model["count"][0, 0].tolist() == [4, 2, 2]


def test_the_second_tree_by_hand() -> None:
    """After w = ±0.2 p = 1/(1 + e^0.2) on the left: there G = 2p, H = 2p(1 − p)."""
    model = grow(BoostedTrees(rounds=3, learning_rate=0.3, **ALONE), Form(1, 1, trees=2, max_depth=1, bins=4), [FOUR])  # type: ignore[arg-type]
    p = 1 / (1 + np.exp(0.2))
    np.testing.assert_allclose(model["value"][1, 0, 1:], np.array([-1, 1]) * 0.3 * 2 * p / (2 * p * (1 - p) + 1), rtol=1e-6)


def test_without_depth_it_is_the_constant_and_a_full_step_is_newtons() -> None:
    data = drawn("binary")
    form, method = Form(4, 1, trees=1, max_depth=0, bins=4), BoostedTrees(rounds=2, learning_rate=1.0, reg_lambda=0.0)
    model = grow(method, form, [data])
    np.testing.assert_allclose(scores(form, model, data.features), data.targets.mean(), rtol=1e-6)
    aside = Growing({**model, "base": np.array([0.3]), "count": 0 * model["count"]}, round_number=1)
    stepped = method.update(aside, sent(method, aside, learner(form), data)).model
    p = 1 / (1 + np.exp(-0.3))
    assert stepped["value"][0, 0, 0] == pytest.approx(-(p - data.targets).sum() / (len(data) * p * (1 - p)), rel=1e-6)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_trees_do_not_depend_on_where_patients_are(kind: str, seed: int) -> None:
    data, outputs = drawn(kind, seed=seed), 3 if kind == "multiclass" else 1
    form, method = Form(4, outputs, trees=4, max_depth=3, bins=16), BoostedTrees(rounds=13)
    pooled = grow(method, form, [data], kind)
    assert (pooled["feature"] >= 0).sum() > 10
    for sites in (2, 5):
        apart = grow(method, form, spread(data, sites, seed), kind)
        assert {name: leaf.tobytes() for name, leaf in apart.items()} == {name: leaf.tobytes() for name, leaf in pooled.items()}


def test_the_loss_falls_with_every_level() -> None:
    data, form, method = drawn("binary"), Form(4, 1, trees=5, max_depth=3, bins=16), BoostedTrees(rounds=16)
    who, state, losses = learner(form), method.init(form.initial()), []
    while not method.finished(state):
        state = method.update(state, sent(method, state, who, data))
        who.load(state.model)
        losses.append(float(who.evaluate(data)["loss"][0]))
    assert all(later < earlier for earlier, later in pairwise(losses))


@pytest.mark.parametrize("seed", [0, 1])
def test_as_good_as_scikit_learns_histogram_boosting(seed: int) -> None:
    features, targets = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(targets))
    train, test = order[:400], order[400:]
    form, method = Form(30, 1, trees=40, max_depth=3, bins=32), BoostedTrees(rounds=121)
    model = grow(method, form, spread(Samples(features[train], targets[train]), 3, seed))
    theirs = HistGradientBoostingClassifier(
        learning_rate=0.1, max_iter=40, max_depth=3, max_bins=32, l2_regularization=1.0, min_samples_leaf=10, early_stopping=False
    ).fit(features[train], targets[train])
    ours = roc_auc_score(targets[test], scores(form, model, features[test]))
    assert ours > roc_auc_score(targets[test], theirs.predict_proba(features[test])[:, 1]) - 0.01


def test_a_regression_and_several_classes_are_as_good_too() -> None:
    features, targets = load_diabetes(return_X_y=True)
    form, method = Form(10, 1, trees=30, max_depth=3, bins=32), BoostedTrees(rounds=91)
    ours = scores(form, grow(method, form, spread(Samples(features[:300], targets[:300]), 3, 1), "regression"), features[300:], "regression")
    settings = {"learning_rate": 0.1, "max_iter": 30, "max_depth": 3, "max_bins": 32, "l2_regularization": 1.0, "min_samples_leaf": 10}
    theirs = HistGradientBoostingRegressor(**settings).fit(features[:300], targets[:300]).predict(features[300:])
    assert np.sqrt(np.mean((ours - targets[300:]) ** 2)) < 1.05 * np.sqrt(np.mean((theirs - targets[300:]) ** 2))
    flowers, kinds = load_iris(return_X_y=True)
    form, method = Form(4, 3, trees=15, max_depth=2, bins=32), BoostedTrees(rounds=31)
    told = scores(form, grow(method, form, spread(Samples(flowers, kinds), 3, 1), "multiclass"), flowers, "multiclass")
    assert (told.argmax(axis=1) == kinds).mean() > 0.95
    np.testing.assert_allclose(told.sum(axis=1), 1)


def test_missing_values_go_where_they_gain() -> None:
    rng = np.random.default_rng(2)
    values, gone = rng.normal(size=400), rng.random(400) < 0.4
    targets = (values > 0) | gone
    for side in ("right", "left"):
        features = np.where(gone, np.nan, values if side == "right" else -values).reshape(-1, 1)
        form = Form(1, 1, trees=1, max_depth=1, bins=16)
        model = grow(BoostedTrees(rounds=2), form, spread(Samples(features, targets.astype(np.int64)), 2, 1))
        assert model["missing_left"][0, 0, 0] == (side == "left")
        assert scores(form, model, np.array([[np.nan]])) > targets.mean()


def test_missing_only_when_predicting_goes_with_the_larger_part() -> None:
    features = np.concatenate([np.zeros(30), np.ones(10)]).reshape(-1, 1)
    form = Form(1, 1, trees=1, max_depth=1, bins=4)
    model = grow(BoostedTrees(rounds=2), form, [Samples(features, features[:, 0].astype(np.int64))])
    assert model["missing_left"][0, 0, 0] == 1


def test_no_node_and_no_bin_is_made_of_fewer_rows_than_a_leaf_needs() -> None:
    data, form = drawn("binary"), Form(4, 1, trees=3, max_depth=4, bins=64)
    model = grow(BoostedTrees(rounds=13, min_leaf_rows=25, min_child_weight=0.0), form, spread(data, 3, 1))
    counts = model["count"][model["count"] > 0]
    assert counts.min() >= 25
    codes = form.codes(model, data.features)
    rows = np.concatenate([np.bincount(column[column < 64]) for column in codes])
    assert rows[rows > 0].min() >= 25


def test_a_tree_that_finds_no_split_ends_early() -> None:
    data = Samples(np.zeros((50, 1)), np.tile([0, 1], 25))
    method, form = BoostedTrees(rounds=10), Form(1, 1, trees=3, max_depth=3, bins=4)
    state, rounds = method.init(form.initial()), 0
    while not method.finished(state):
        state, rounds = method.update(state, sent(method, state, learner(form), data)), rounds + 1
    assert rounds == 4
    assert (state.model["feature"] == -1).all()


def test_a_site_that_is_lost_in_a_level_is_missing_there_only() -> None:
    first, second = spread(drawn("binary"), 2, 1)
    method, form = BoostedTrees(rounds=7), Form(4, 1, trees=2, max_depth=3, bins=16)
    state, one, other = method.init(form.initial()), learner(form), learner(form)
    while not method.finished(state):
        both = [sent(method, state, one, first), sent(method, state, other, second)]
        state = method.update(state, total(both[: 1 if state.round_number == 2 else 2]))
    assert (state.model["feature"] >= 0).sum() > 4
    assert np.isfinite(scores(form, state.model, first.features)).all()


def test_sums_of_another_form_are_refused() -> None:
    method, form, data = BoostedTrees(rounds=3), Form(4, 1, trees=1, max_depth=2, bins=8), drawn("binary")
    start = method.init(form.initial())
    update = sent(method, start, learner(form), data)
    with pytest.raises(BadUpdate, match="cells"):
        method.update(start, Update({"histogram": {**update.sums["histogram"], "cells": np.zeros((4, 7), np.int64)}}))
    with pytest.raises(BadUpdate, match="cells"):
        method.update(start, Update({"histogram": {**update.sums["histogram"], "cells": np.full((4, CELLS), -1)}}))
    with pytest.raises(BadUpdate, match="outcome"):
        method.update(start, Update({"histogram": {**update.sums["histogram"], "outcome": np.zeros(7)}}))
    begun = method.update(start, update)
    sums = sent(method, begun, learner(form), data).sums["histogram"]
    with pytest.raises(BadUpdate, match="gradient"):
        method.update(begun, Update({"histogram": {**sums, "gradient": sums["gradient"].astype(np.float64)}}))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_every_update_has_the_form_that_was_foretold(kind: str) -> None:
    form, method, data = Form(4, 3 if kind == "multiclass" else 1, trees=2, max_depth=2, bins=8), BoostedTrees(rounds=5), drawn(kind)
    who = learner(form, kind)
    state = method.init(who.parameters())
    while not method.finished(state):
        update = sent(method, state, who, data)
        found = {name: {leaf: (array.dtype.name, array.shape) for leaf, array in leaves.items()} for name, leaves in update.sums.items()}
        assert found == catalogue.layouts("boosted_trees", method.broadcast(state))
        state = method.update(state, update)
    with pytest.raises(BadUpdate, match="is not what boosted_trees sends"):
        catalogue.layouts("boosted_trees", {"model": {}})


def test_a_model_that_is_no_trees_is_refused() -> None:
    with pytest.raises(BadModel, match="none"):
        BoostedTrees().init({"coefficients": np.zeros(3)})


def test_parameters_out_of_their_range_are_refused() -> None:
    with pytest.raises(BadStudy) as refused:
        BoostedTrees(learning_rate=0.0, reg_lambda=-1.0, gamma=-1.0, min_child_weight=-1.0, min_leaf_rows=0)
    assert len(refused.value.faults) == 5


@pytest.mark.parametrize("chunk", [1 << 20, 64, 1])
@pytest.mark.parametrize("joint", [1, 1 << 17])
def test_histograms_are_sums(monkeypatch: pytest.MonkeyPatch, chunk: int, joint: int) -> None:
    """However many passes they take."""
    monkeypatch.setattr(boosted_trees, "_CHUNK", chunk)
    monkeypatch.setattr(boosted_trees, "_JOINT", joint)
    rng = np.random.default_rng(4)
    codes, slots = rng.integers(0, 6, (5, 90)).astype(np.uint8), rng.integers(-1, 3, (90, 2))
    slots[slots[:, 1] >= 0, 1] += 3
    weight = rng.integers(-(2**24), 2**24, (90, 2)).astype(np.float64)
    found, rows = _histograms(codes, slots, [weight, None], 6, 6)
    for output in range(2):
        for feature in range(5):
            for node in range(3 * output, 3 * output + 3):
                for code in range(6):
                    there = (slots[:, output] == node) & (codes[feature] == code)
                    assert found[node, feature, code] == weight[there, output].sum()
                    assert rows[node, feature, code] == there.sum()


def test_cells_hold_the_values_between_their_bounds() -> None:
    values = np.concatenate([[0.0, 1.0, 63.5, -63.5, 1e-4, -1e-4, 1e9, -1e9], np.random.default_rng(3).normal(0, 30, 500)])
    begins, ends = _bounds()
    assert len(begins) == len(ends) == CELLS
    np.testing.assert_array_equal(begins[1:], ends[:-1])
    for value in values:
        (cell,) = np.flatnonzero(_counted(np.array([value])))
        assert (begins[cell] <= value <= ends[cell]) or abs(value) > 2**22
    assert _counted(np.array([np.nan])).sum() == 0


def test_edges_are_quantiles_or_lie_between_the_few_values_there_are() -> None:
    drawn_values = np.random.default_rng(1).normal(50, 10, 10_000)
    edges = _cut(_counted(drawn_values), 8, 10)
    np.testing.assert_allclose(edges, np.quantile(drawn_values, np.arange(1, 8) / 8), atol=1.0)
    few = _cut(_counted(np.repeat([0.0, 1.0, 2.0], 20)), 8, 10)
    np.testing.assert_allclose(few[:2], [0.5, 1.5], atol=0.01)
    assert (few[2:] == np.finfo(np.float64).max).all()
    rare = _cut(_counted(np.repeat([0.0, 1.0, 2.0], [20, 20, 3])), 8, 10)
    assert (rare[1:] == np.finfo(np.float64).max).all(), "three patients make no bin of their own"


def test_no_tree_is_grown_past_the_stated_rounds() -> None:
    data, form = drawn("binary"), Form(4, 1, trees=9, max_depth=2, bins=8)
    model = grow(BoostedTrees(rounds=5), form, [data])
    assert form.grown(model) == 2
    assert replace(BoostedTrees(), rounds=5) == boosted_trees.EXAMPLE
