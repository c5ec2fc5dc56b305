"""scikit-learn's own loop as the oracle; sites of one class; losses, penalties, scores; what is refused."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import SGDClassifier, SGDRegressor

from aimer2.algorithms import catalogue as algorithms
from aimer2.core.dataset import Samples
from aimer2.core.errors import BadModel, BadUpdate, NotAvailable
from aimer2.core.protocols import Local
from aimer2.core.study import Study, Target, Training
from aimer2.learners.catalogue import faults
from aimer2.learners.recipe import Recipe
from aimer2.learners.sklearn import SklearnLearner
from aimer2.models import catalogue as models

TARGETS = {
    "binary": Target(name="y"),
    "multiclass": Target(name="y", kind="multiclass", categories=("a", "b", "c")),
    "regression": Target(name="y", kind="regression"),
}
CLASSES = {"binary": 2, "multiclass": 3, "regression": 1}


def recipe(kind: str, **training: Any) -> Recipe:
    return Recipe(Training(**training), TARGETS[kind], 10, (4,), ())


def named(name: str, kind: str = "binary", options: dict[str, Any] | None = None, **training: Any) -> SklearnLearner:
    return SklearnLearner(lambda: models.build("sklearn", name, (4,), CLASSES[kind], options or {}), recipe(kind, **training), "cpu")


def drawn(kind: str = "binary", rows: int = 60, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 4))
    signal = features @ [1.0, -2.0, 0.5, 0.0]
    strongest = features[:, :3].argmax(axis=1)
    targets = {"binary": (signal > 0).astype(int), "multiclass": strongest, "regression": signal + 3}[kind]
    return Samples(features, targets)


def fit(learner: SklearnLearner, data: Samples, **rest: Any) -> float:
    return learner.fit(data, **{"steps": 4, "batch_size": None, "round_number": 1, "rng": np.random.default_rng(0)} | rest)


ORACLES: dict[str, tuple[str, Any]] = {
    "linear": ("regression", SGDRegressor),
    "logistic": ("binary", SGDClassifier),
    "svm": ("multiclass", SGDClassifier),
    "perceptron": ("binary", SGDClassifier),
}
LOSSES = {"linear": "squared_error", "logistic": "log_loss", "svm": "hinge", "perceptron": "perceptron"}


@pytest.mark.parametrize("penalty", ["none", "l2", "elasticnet"])
@pytest.mark.parametrize("name", ORACLES)
def test_steps_over_all_rows_are_passes_of_scikit_learn(name: str, penalty: str) -> None:
    kind, oracle = ORACLES[name]
    learner, data = named(name, kind, {"penalty": penalty, "alpha": 0.01}, learning_rate=0.02), drawn(kind)
    fit(learner, data)
    options = {"loss": LOSSES[name], "penalty": None if penalty == "none" else penalty, "alpha": 0.01, "eta0": 0.02}
    bare = oracle(learning_rate="constant", shuffle=False, max_iter=4, tol=None, **options)
    if penalty == "elasticnet":
        # what scikit-learn has yet to take off a coefficient begins anew with each call
        for _ in range(4):
            bare.partial_fit(data.features, data.targets, **({} if kind == "regression" else {"classes": np.arange(CLASSES[kind])}))
    else:
        bare.fit(data.features, data.targets)
    np.testing.assert_allclose(learner.parameters()["coef_"], bare.coef_, rtol=1e-9)
    np.testing.assert_allclose(learner.parameters()["intercept_"], bare.intercept_, rtol=1e-9)
    if name == "logistic":
        np.testing.assert_allclose(learner.predict(data), bare.predict_proba(data.features)[:, 1], rtol=1e-9)
    if name == "svm":
        assert np.array_equal(learner.predict(data).argmax(axis=1), bare.predict(data.features))


def test_a_step_is_one_update_for_each_row_of_a_batch() -> None:
    """w ← w − η·2·½·(w·x + b − y)·x, row after row, by hand."""
    learner, data = named("linear", "regression", learning_rate=0.1), drawn("regression", rows=3)
    fit(learner, data, steps=1)
    weights, intercept = np.zeros(4), 0.0
    for row, target in zip(data.features, data.targets, strict=True):
        error = weights @ row + intercept - target
        weights, intercept = weights - 0.1 * error * row, intercept - 0.1 * error
    np.testing.assert_allclose(learner.parameters()["coef_"], weights, rtol=1e-12)
    np.testing.assert_allclose(learner.parameters()["intercept_"], [intercept], rtol=1e-12)


def test_the_schedule_sets_the_rate_of_a_round() -> None:
    data, moved = drawn("regression", rows=1), []
    for round_number in (1, 6):
        learner = named("linear", "regression", schedule="step", learning_rate=0.1)
        fit(learner, data, steps=1, round_number=round_number)
        moved.append(learner.parameters()["coef_"])
    np.testing.assert_allclose(moved[1], moved[0] / 10, rtol=1e-12)


@pytest.mark.parametrize(("name", "kind"), [("logistic", "binary"), ("svm", "multiclass"), ("perceptron", "binary")])
def test_sites_of_one_class_each_learn_a_model_of_all(name: str, kind: str) -> None:
    data = drawn(kind, rows=150)
    parts = {str(value): Samples(data.features[data.targets == value], data.targets[data.targets == value]) for value in np.unique(data.targets)}
    learners = {site: named(name, kind, learning_rate=0.01) for site in parts}
    algorithm = algorithms.make("fedavg", 20, {})
    state = algorithm.init(learners["0"].parameters())
    for number in range(1, 21):
        received = algorithm.broadcast(state)
        locals_ = [Local(rows, learners[site], {}, np.random.default_rng(number), number, 2, 10) for site, rows in parts.items()]
        state = algorithm.update(state, reduce(add, (algorithm.local(received, local) for local in locals_)))
    judge = learners["0"]
    judge.load(algorithm.model(state))
    scores = judge.predict(data)
    called = scores.argmax(axis=1) if kind == "multiclass" else scores > 0.5
    assert (called == data.targets).mean() > 0.85


def test_the_loss_is_the_models_own() -> None:
    data = drawn("multiclass")
    learner = named("svm", "multiclass", learning_rate=0.01)
    fit(learner, data)
    own = learner.parameters()
    decision = data.features @ own["coef_"].T + own["intercept_"]
    margin = np.where(data.targets[:, None] == np.arange(3), decision, -decision)
    np.testing.assert_allclose(learner.evaluate(data)["loss"], [np.maximum(0, 1 - margin).sum()], rtol=1e-9)


def test_a_diverging_training_leaves_no_update() -> None:
    with pytest.raises(BadUpdate, match="not finite"):
        fit(named("linear", "regression", learning_rate=1e300), drawn("regression"), steps=40)


class Means:
    """A classifier by the nearest mean, whose counts and sums travel."""

    def __init__(self, classes: int = 2, shape: tuple[int, ...] = (4,)) -> None:
        self.sums = {"means": np.zeros((classes, *shape)), "counts": np.ones(classes)}

    def get_parameters(self) -> dict[str, np.ndarray]:
        return self.sums

    def set_parameters(self, parameters: dict[str, np.ndarray]) -> None:
        self.sums = dict(parameters)

    def fit(self, features: np.ndarray, targets: np.ndarray, learning_rate: float) -> None:
        for number in np.unique(targets):
            self.sums["means"][number] += learning_rate * (features[targets == number].mean(axis=0) - self.sums["means"][number])

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        near = np.exp(-((features[:, None] - self.sums["means"]) ** 2).sum(axis=2))
        return np.asarray(near / near.sum(axis=1, keepdims=True))


def test_any_estimator_that_says_and_takes_its_parameters() -> None:
    learner = SklearnLearner(Means, recipe("binary"))
    before = fit(learner, drawn())
    assert fit(learner, drawn(), steps=20) < before
    assert learner.evaluate(drawn())["loss"][0] / 60 < before


@pytest.mark.parametrize(
    "build",
    [
        SGDClassifier,
        lambda: Means(classes=3),
        type("Lists", (Means,), {"get_parameters": lambda self: {"means": [0.0]}}),
        type("Whole", (Means,), {"get_parameters": lambda self: {"means": np.zeros(2, int)}}),
    ],
    ids=["no get_parameters", "too many classes", "lists", "integers"],
)
def test_estimators_of_a_wrong_form_are_refused(build: Any) -> None:
    with pytest.raises(BadModel):
        SklearnLearner(build, recipe("binary"))


def test_parameters_that_grow_are_refused() -> None:
    class Growing(Means):
        def fit(self, features: np.ndarray, targets: np.ndarray, learning_rate: float) -> None:
            self.sums["counts"] = np.ones(len(features))

    learner = SklearnLearner(Growing, recipe("binary"))
    fit(learner, drawn())
    with pytest.raises(BadModel, match="counts"):
        learner.parameters()


def test_only_the_processor() -> None:
    with pytest.raises(NotAvailable):
        SklearnLearner(Means, recipe("binary"), "cuda")


def study(name: str = "logistic", kind: str = "binary", metrics: tuple[str, ...] = (), **training: Any) -> Study:
    return Study(
        name="rows",
        question="What can scikit-learn not do here?",
        purpose="testing",
        ethics="none needed: no data",
        principal_investigator="Test",
        expires="2090-01-01",
        cohort={"dataset": "none", "features": [{"name": "x"}], "target": {"name": "y", "kind": kind}},
        model={"framework": "sklearn", "name": name},
        training=training,
        evaluation={"metrics": metrics},
    )


@pytest.mark.parametrize(
    ("asked", "places"),
    [
        ({}, []),
        ({"momentum": 0.5, "weight_decay": 0.1}, ["training.momentum", "training.weight_decay"]),
        ({"optimiser": "adam"}, ["training.optimiser"]),
        ({"class_weights": (1.0, 2.0)}, ["training.class_weights"]),
        ({"name": "svm", "metrics": ("auc", "brier")}, ["evaluation.metrics"]),
        ({"name": "logistic", "metrics": ("auc", "brier")}, []),
        ({"name": "linear", "kind": "binary"}, ["model.name"]),
    ],
)
def test_what_would_be_ignored_is_a_fault(asked: dict[str, Any], places: list[str]) -> None:
    assert [fault.place for fault in faults(study(**asked))] == places
