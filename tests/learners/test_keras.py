"""Keras against torch, method by method and optimiser by optimiser; warm graphs over rounds; what only Keras has, and what it must refuse."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pytest

if os.environ.get("CI") != "true":
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed: pip install 'aimer2[keras]'")

import keras

from aimer2.algorithms import catalogue as algorithms
from aimer2.core.dataset import Samples
from aimer2.core.errors import BadModel, NotAvailable
from aimer2.core.protocols import Algorithm, Learner, Local
from aimer2.core.study import Target, Training
from aimer2.core.tree import Tree
from aimer2.learners.keras import KerasLearner
from aimer2.learners.numpy import NumpyLearner
from aimer2.learners.optimisers import OPTIMISERS
from aimer2.learners.recipe import WITH_MOMENTUM, Recipe
from aimer2.learners.torch import TorchLearner
from aimer2.models import catalogue as models
from aimer2.models.linear import Logistic

TARGETS = {
    "binary": Target(name="y"),
    "multiclass": Target(name="y", kind="multiclass", categories=("a", "b", "c")),
    "regression": Target(name="y", kind="regression"),
}
CLASSES = {"binary": 2, "multiclass": 3, "regression": 1}
LEARNERS = {"keras": KerasLearner, "torch": TorchLearner}
SITES = ("north", "south")


def recipe(kind: str = "binary", shape: tuple[int, ...] = (4,), **training: Any) -> Recipe:
    return Recipe(Training(**training), TARGETS[kind], 10, shape, ())


def named(framework: str, name: str, kind: str = "binary", shape: tuple[int, ...] = (4,), **rest: Any) -> Any:
    """A ready-made model's learner; ``options`` are the model's, other keywords the training's."""
    options = rest.pop("options", {})
    return LEARNERS[framework](lambda: models.build(framework, name, shape, CLASSES[kind], options), recipe(kind, shape, **rest), "cpu")


def own(build: Callable[[], Any], kind: str = "binary", **training: Any) -> KerasLearner:
    return KerasLearner(build, recipe(kind, **training), "cpu")


def stacked(*layers: Any) -> Callable[[], Any]:
    return lambda: keras.Sequential([keras.Input((4,)), *(layer() for layer in layers)])


def drawn(kind: str = "binary", shape: tuple[int, ...] = (4,), rows: int = 40, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    targets = rng.normal(size=rows) if kind == "regression" else rng.integers(0, CLASSES[kind], rows)
    return Samples(rng.normal(size=(rows, *shape)) + seed, targets, groups=np.eye(2)[np.arange(rows) % 2])


def fit(learner: Learner, data: Samples, steps: int = 6, **rest: Any) -> float:
    return learner.fit(data, steps=steps, **{"batch_size": 16, "round_number": 1, "rng": np.random.default_rng(7)} | rest)


def rounds(algorithm: Algorithm[Any], learner: Callable[[str], Learner], count: int = 3) -> Tree:
    """The method over two sites; a learner is asked for at each site in each round."""
    memories: dict[str, dict[str, Tree]] = {site: {} for site in SITES}
    state = algorithm.init(learner("north").parameters())
    for number in range(1, count + 1):
        received, updates = algorithm.broadcast(state), []
        for site in algorithm.select(state, SITES):
            rng = np.random.default_rng([number, SITES.index(site)])
            data = drawn(rows=30 + 10 * SITES.index(site), seed=SITES.index(site))
            updates.append(algorithm.local(received, Local(data, learner(site), memories[site], rng, number, 3, 8)))
        state = algorithm.update(state, reduce(add, updates))
    return algorithm.model(state)


def close(one: Tree, other: Tree, tolerance: float = 2e-5) -> None:
    assert one.keys() == other.keys()
    for name, leaf in one.items():
        np.testing.assert_allclose(leaf, other[name], atol=tolerance, err_msg=name)


MLP: dict[str, Any] = {"options": {"hidden": [3], "activation": "tanh"}, "learning_rate": 0.2}


@pytest.fixture(scope="module")
def warm() -> Mapping[str, Mapping[str, Learner]]:
    """One learner at each site for all methods: what one leaves behind would be seen in the next."""
    return {framework: {site: named(framework, "mlp", **MLP) for site in SITES} for framework in LEARNERS}


PLAIN = [name for name in algorithms.names() if not algorithms.frameworks(name) or "keras" in algorithms.frameworks(name)]


@pytest.mark.parametrize("method", PLAIN)
def test_every_method_gives_what_it_gives_with_torch(method: str, warm: Mapping[str, Mapping[str, Learner]]) -> None:
    results, start = {}, named("torch", "mlp", **MLP).parameters()
    for framework, learners in warm.items():
        for learner in learners.values():
            learner.load(start)
        results[framework] = rounds(algorithms.example(method), learners.__getitem__)
    close(results["keras"], results["torch"])
    assert not all(np.array_equal(leaf, start[name]) for name, leaf in results["keras"].items())


@pytest.mark.parametrize("method", ["fedprox", "scaffold"])
def test_a_warm_graph_sees_the_new_anchor_in_every_round(method: str, warm: Mapping[str, Mapping[str, Learner]]) -> None:
    """A graph that kept the first round's anchor would part from one made anew for every round, to the last bit."""
    start = named("torch", "mlp", **MLP).parameters()
    for learner in warm["keras"].values():
        learner.load(start)

    def fresh(site: str) -> Learner:
        made = named("keras", "mlp", **MLP)
        made.load(start)
        return made  # type: ignore[no-any-return]

    kept, anew = (rounds(algorithms.example(method), learner) for learner in (warm["keras"].__getitem__, fresh))
    assert all(np.array_equal(leaf, anew[name]) for name, leaf in kept.items())


def test_a_linear_model_over_rounds_is_that_of_numpy() -> None:
    reference = {site: NumpyLearner(lambda: Logistic(4), recipe(learning_rate=0.5)) for site in SITES}
    mine = {site: named("keras", "logistic", learning_rate=0.5) for site in SITES}
    expected, found = (rounds(algorithms.make("fedprox", 5, {"mu": 1.0}), each.__getitem__, 5) for each in (reference, mine))
    np.testing.assert_allclose(found["weight"][0], expected["coefficients"], atol=1e-5)
    np.testing.assert_allclose(found["bias"], expected["intercept"], atol=1e-5)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_each_optimiser_takes_the_steps_of_torch(name: str) -> None:
    training = {"optimiser": name, "learning_rate": 0.02, "weight_decay": 0.1, **({"momentum": 0.8} if name in WITH_MOMENTUM else {})}
    shape, options = (1, 8, 8), {"channels": [4, 8]}
    pair = [named(framework, "cnn", "multiclass", shape, options=options, **training) for framework in ("torch", "keras")]
    pair[1].load(pair[0].parameters())
    losses = [fit(learner, drawn("multiclass", shape)) for learner in pair]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    close(pair[1].parameters(), pair[0].parameters(), 1e-4)


ARCHITECTURES = {
    "linear": ("linear", "regression", (4,), {}),
    "logistic": ("logistic", "multiclass", (4,), {"intercept": False}),
    "mlp": ("mlp", "multiclass", (2, 3), {"hidden": [6, 5], "activation": "gelu", "dropout": 0.2, "batch_norm": True}),
    "cnn": ("cnn", "binary", (2, 8, 12), {"channels": [6, 4], "dropout": 0.2}),
    "cnn-batch-norm": ("cnn", "multiclass", (2, 8, 12), {"channels": [6, 4], "batch_norm": True}),
}


@pytest.mark.parametrize("case", ARCHITECTURES)
def test_the_ready_made_models_are_those_of_torch_weight_by_weight(case: str) -> None:
    name, kind, shape, options = ARCHITECTURES[case]
    theirs, mine = (named(framework, name, kind, shape, options=options) for framework in ("torch", "keras"))
    assert theirs.buffers == mine.buffers
    rng = np.random.default_rng(2)
    weights = {name: rng.uniform(0.2, 1, leaf.shape).astype(leaf.dtype) for name, leaf in theirs.parameters().items()}
    for learner in (theirs, mine):
        learner.load(weights)
    close(mine.parameters(), weights, 0.0)
    np.testing.assert_allclose(mine.predict(drawn(kind, shape)), theirs.predict(drawn(kind, shape)), rtol=1e-4, atol=1e-5)


def test_a_correction_sees_the_weights_as_they_travel() -> None:
    """A dense kernel lies turned over in Keras; outside it does not."""
    learner, seen = named("keras", "mlp", options={"hidden": [3]}), dict[str, Any]()
    shift = {name: np.arange(leaf.size, dtype=leaf.dtype).reshape(leaf.shape) for name, leaf in learner.parameters().items()}
    native = learner.native(shift)
    before = learner.parameters()

    def push(parameters: Tree, gradients: Tree) -> Tree:
        seen.update({name: np.asarray(leaf) for name, leaf in parameters.items()})
        return {name: 0.0 * gradient + native[name] for name, gradient in gradients.items()}

    fit(learner, drawn(), steps=1, correction=push)
    close(seen, before, 0.0)
    close(learner.parameters(), {name: leaf - np.float32(0.1) * shift[name] for name, leaf in before.items()}, 1e-6)


def test_names_do_not_hang_on_what_was_built_before() -> None:
    build = stacked(lambda: keras.layers.Dense(3), lambda: keras.layers.Dense(1))
    keras.layers.Dense(2)
    first = own(build).parameters().keys()
    keras.layers.Dense(2)
    assert own(build).parameters().keys() == first == {f"sequential/{layer}/{leaf}" for layer in ("dense", "dense_1") for leaf in ("kernel", "bias")}


def test_a_model_that_makes_its_weights_at_its_first_call() -> None:
    @keras.saving.register_keras_serializable("aimer2-test")
    class Late(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.head = keras.layers.Dense(1)

        def call(self, features: Any, training: bool = False) -> Any:
            return self.head(features)

    learner = own(Late)
    assert {leaf.shape for leaf in learner.parameters().values()} == {(4, 1), (1,)}
    assert fit(learner, drawn(), steps=30) < 0.75


def test_frozen_layers_keep_their_weights_and_have_no_gradients() -> None:
    learner, seen = own(stacked(lambda: keras.layers.Dense(3, name="base", trainable=False), lambda: keras.layers.Dense(1, name="head"))), set[str]()
    before = learner.parameters()

    def look(parameters: Tree, gradients: Tree) -> Tree:
        seen.update(parameters)
        return gradients

    fit(learner, drawn(), correction=look)
    after = learner.parameters()
    assert seen == {"sequential/head/kernel", "sequential/head/bias"}
    assert learner.buffers == {"sequential/base/kernel", "sequential/base/bias"}
    assert np.array_equal(before["sequential/base/kernel"], after["sequential/base/kernel"])
    assert not np.array_equal(before["sequential/head/kernel"], after["sequential/head/kernel"])
    with pytest.raises(BadModel, match="learns"):
        fit(learner, drawn(), trainable=learner.buffers)


def test_batch_normalisation_that_is_left_alone_works_by_what_it_was_given() -> None:
    learner = named("keras", "mlp", options={"hidden": [3], "batch_norm": True})
    reference = named("torch", "mlp", options={"hidden": [3], "batch_norm": True})
    learner.load(reference.parameters())
    for each in (learner, reference):
        fit(each, drawn(), trainable={"3.weight", "3.bias"})
    close(learner.parameters(), reference.parameters())
    fit(learner, drawn())
    assert not np.array_equal(learner.parameters()["1.running_mean"], reference.parameters()["1.running_mean"])


def test_regularisation_and_constraints_of_the_layers_count() -> None:
    plain = own(stacked(lambda: keras.layers.Dense(1, name="head")))
    heavy = own(stacked(lambda: keras.layers.Dense(1, name="head", kernel_regularizer=keras.regularizers.L2(10.0))))
    bound = own(stacked(lambda: keras.layers.Dense(1, name="head", kernel_constraint=keras.constraints.NonNeg())))
    start = plain.parameters()
    for learner in (plain, heavy, bound):
        learner.load(start)
        fit(learner, drawn(), steps=1)
    kernel = "sequential/head/kernel"
    np.testing.assert_allclose(heavy.parameters()[kernel], plain.parameters()[kernel] - 0.1 * 20.0 * start[kernel], atol=1e-5)
    np.testing.assert_allclose(bound.parameters()[kernel], np.maximum(plain.parameters()[kernel], 0), atol=1e-6)


def test_counts_stay_and_start_anew_with_each_load() -> None:
    class Counting(keras.layers.Layer):  # type: ignore[misc]
        def build(self, shape: Any) -> None:
            self.count = self.add_weight(shape=(), dtype="int64", initializer="zeros", trainable=False, name="count")

        def call(self, features: Any, training: bool = False) -> Any:
            if training:
                self.count.assign(self.count + 1)
            return features * keras.ops.cast(self.count, features.dtype)

    learner = own(stacked(Counting, lambda: keras.layers.Dense(1)))
    assert not [name for name in learner.parameters() if "count" in name]
    start = learner.parameters()
    fit(learner, drawn())
    once = learner.parameters()
    learner.load(start)
    fit(learner, drawn())
    close(learner.parameters(), once, 0.0)


def test_dropout_repeats_and_differs_between_steps_and_rounds() -> None:
    build = stacked(lambda: keras.layers.Dropout(0.5), lambda: keras.layers.Dense(1))
    learner = own(build)
    start, results = learner.parameters(), []
    for seed in (7, 7, 8):
        learner.load(start)
        fit(learner, drawn(), batch_size=None, rng=np.random.default_rng(seed))
        results.append(learner.parameters())
    kernel = "sequential/dense/kernel"
    assert np.array_equal(results[0][kernel], results[1][kernel])
    assert not np.array_equal(results[0][kernel], results[2][kernel])
    np.testing.assert_array_equal(learner.predict(drawn()), learner.predict(drawn()))


def test_a_float64_model_trains_in_float64() -> None:
    learner = own(lambda: keras.Sequential([keras.Input((4,), dtype="float64"), keras.layers.Dense(1, dtype="float64")]))
    reference = NumpyLearner(lambda: Logistic(4), recipe())
    start = learner.parameters()
    reference.load({"coefficients": start["sequential/dense/kernel"][:, 0], "intercept": start["sequential/dense/bias"]})
    for each in (learner, reference):
        fit(each, Samples(drawn().features + 1e-12, drawn().targets), steps=20, batch_size=None)
    np.testing.assert_allclose(learner.parameters()["sequential/dense/kernel"][:, 0], reference.parameters()["coefficients"], rtol=1e-12)


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (stacked(lambda: keras.layers.Dense(1, activation="sigmoid")), "binary"),
        (stacked(lambda: keras.layers.Dense(3), keras.layers.Softmax), "multiclass"),
        (stacked(lambda: keras.layers.Dense(2)), "binary"),
        (stacked(lambda: keras.layers.Dense(2)), "multiclass"),
        (stacked(lambda: keras.layers.Dense(3)), "regression"),
        (stacked(lambda: keras.layers.Dense(1, dtype="float16")), "binary"),
        (lambda: keras.layers.Dense(1), "binary"),
    ],
    ids=["sigmoid", "softmax", "two-logits", "too-few-classes", "too-many", "half", "no-model"],
)
def test_models_of_a_wrong_form_are_refused_before_any_data(build: Any, kind: str) -> None:
    with pytest.raises(BadModel):
        own(build, kind)


def test_two_weights_of_one_name_are_refused() -> None:
    def build() -> Any:
        model = stacked(lambda: keras.layers.Dense(1))()
        model.travels_as = lambda path, rank: ("same", tuple(range(rank)))
        return model

    with pytest.raises(BadModel, match="same"):
        own(build)


def test_a_device_that_is_not_there_is_not_available() -> None:
    build = stacked(lambda: keras.layers.Dense(1))
    for device in ("quantum", "cuda:99"):
        with pytest.raises(NotAvailable):
            KerasLearner(build, recipe(), device)


def test_another_backend_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(NotAvailable, match="backend"):
        own(stacked(lambda: keras.layers.Dense(1)))
