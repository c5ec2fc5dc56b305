"""The float64 reference against what statistics packages say, and the step against the formula in whole passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import LogisticRegression
from statsmodels.api import OLS, Logit, add_constant

from aimer2.core import tree
from aimer2.core.dataset import Samples
from aimer2.core.errors import BadModel, NotAvailable
from aimer2.core.study import Target, Training
from aimer2.learners.numpy import Model, NumpyLearner, descend
from aimer2.learners.recipe import Recipe
from aimer2.models.linear import Linear, Logistic, Multinomial


def learner(model: Model, kind: str, features: int, **training: Any) -> NumpyLearner:
    categories = ("a", "b", "c") if kind == "multiclass" else ()
    target = Target.model_validate({"name": "y", "kind": kind, "categories": categories})
    return NumpyLearner(lambda: model, Recipe(Training(**training), target, 10, (features,)))


def descended(trained: NumpyLearner, data: Samples, steps: int) -> Mapping[str, np.ndarray]:
    trained.fit(data, steps=steps, batch_size=None, round_number=1, rng=np.random.default_rng(0))
    return trained.parameters()


@pytest.fixture(scope="module")
def cancer() -> Samples:
    bunch = load_breast_cancer()
    columns = [list(bunch.feature_names).index(f"mean {name}") for name in ("radius", "texture", "smoothness", "concavity", "symmetry")]
    return Samples(bunch.data[:, columns], (bunch.target == 0).astype(np.int64))


def standardised(data: Samples) -> tuple[Samples, np.ndarray, np.ndarray]:
    mean, deviation = data.features.mean(axis=0), data.features.std(axis=0)
    return Samples((data.features - mean) / deviation, data.targets), mean, deviation


def test_logistic_regression_ends_where_maximum_likelihood_is(cancer: Samples) -> None:
    scaled, mean, deviation = standardised(cancer)
    found = descended(learner(Logistic(5), "binary", 5, learning_rate=4.0, momentum=0.95), scaled, 3000)
    slopes = found["coefficients"] / deviation
    mine = [*(found["intercept"] - slopes @ mean), *slopes]
    fit = Logit(cancer.targets, add_constant(cancer.features)).fit(disp=0, tol=1e-12)
    np.testing.assert_allclose(mine, fit.params, rtol=1e-8)
    known = [-40.73798025, 1.300653352, 0.3828008831, 102.7973758, 18.5184779, 14.37445986]
    np.testing.assert_allclose(mine, known, rtol=1e-8)


def test_the_summed_loss_is_minus_the_log_likelihood(cancer: Samples) -> None:
    fit = Logit(cancer.targets, add_constant(cancer.features)).fit(disp=0, tol=1e-12)
    fitted = learner(Logistic(5), "binary", 5)
    fitted.load({"intercept": fit.params[:1], "coefficients": fit.params[1:]})
    assert fitted.evaluate(cancer)["loss"][0] == pytest.approx(80.0319750553, abs=1e-8)
    np.testing.assert_allclose(fitted.predict(cancer), fit.predict(), rtol=1e-10)


def test_logistic_regression_without_intercept(cancer: Samples) -> None:
    scaled, _, _ = standardised(cancer)
    found = descended(learner(Logistic(5, intercept=False), "binary", 5, learning_rate=4.0, momentum=0.95), scaled, 3000)
    assert found.keys() == {"coefficients"}
    np.testing.assert_allclose(found["coefficients"], Logit(scaled.targets, scaled.features).fit(disp=0, tol=1e-12).params, rtol=1e-8)


def test_linear_regression_ends_where_least_squares_is(cancer: Samples) -> None:
    scaled, _, _ = standardised(Samples(cancer.features[:, 1:], cancer.features[:, 0]))
    found = descended(learner(Linear(4), "regression", 4, learning_rate=0.3, momentum=0.8), scaled, 600)
    fit = OLS(scaled.targets, add_constant(scaled.features)).fit()
    np.testing.assert_allclose([*found["intercept"], *found["coefficients"]], fit.params, rtol=1e-8)


def test_multinomial_regression_with_weight_decay_is_ridge() -> None:
    """Mean loss + λ/2·‖w‖² is scikit-learn's with C = 1/(nλ), which leaves the intercept alone: so there is none here."""
    iris, decay = load_iris(), 0.01
    scaled, _, _ = standardised(Samples(iris.data, iris.target))
    model = learner(Multinomial(4, 3, intercept=False), "multiclass", 4, learning_rate=1.0, momentum=0.9, weight_decay=decay)
    found = descended(model, scaled, 1500)
    fit = LogisticRegression(C=1 / (150 * decay), fit_intercept=False, tol=1e-12, max_iter=10_000).fit(scaled.features, scaled.targets)
    np.testing.assert_allclose(found["coefficients"].T, fit.coef_, atol=1e-6)


def test_full_batch_steps_on_a_quadratic_are_the_closed_form() -> None:
    """Mean (w − b)² from 0: after K steps w = b(1 − (1 − 2η)^K); K = 7, η = 0.1, b = 3."""
    data = Samples(np.ones((4, 1)), np.array([1.0, 2.0, 4.0, 5.0]))
    found = descended(learner(Linear(1, intercept=False), "regression", 1, learning_rate=0.1), data, 7)
    assert found["coefficients"][0] == pytest.approx(3 * (1 - 0.8**7), rel=1e-14)


def test_a_mini_batch_step_uses_the_mean_over_its_own_rows() -> None:
    """One row a step: a pass over y in the drawn order is w ← w + 2η(y − w)."""
    targets = np.array([1.0, 5.0, -2.0])
    one = learner(Linear(1, intercept=False), "regression", 1, learning_rate=0.25)
    one.fit(Samples(np.ones((3, 1)), targets), steps=3, batch_size=1, round_number=1, rng=np.random.default_rng(4))
    weight = 0.0
    for row in np.random.default_rng(4).permutation(3):
        weight += 0.5 * (targets[row] - weight)
    assert one.parameters()["coefficients"][0] == weight


def test_the_loss_is_the_mean_over_the_steps() -> None:
    data = Samples(np.ones((2, 1)), np.array([2.0, 2.0]))
    one = learner(Linear(1, intercept=False), "regression", 1, learning_rate=0.25)
    loss = one.fit(data, steps=3, batch_size=None, round_number=1, rng=np.random.default_rng(0))
    assert loss == pytest.approx((4 + 1 + 0.25) / 3)  # w = 0, 1, 1.5


@pytest.mark.parametrize("extreme", [800.0, -800.0])
def test_certainty_overflows_nowhere(extreme: float) -> None:
    data = Samples(np.array([[extreme]]), np.array([1]))
    sure = learner(Logistic(1, intercept=False), "binary", 1)
    sure.load({"coefficients": np.ones(1)})
    assert sure.predict(data)[0] == pytest.approx(1.0 if extreme > 0 else 0.0, abs=1e-300)
    assert sure.fit(data, steps=1, batch_size=None, round_number=1, rng=np.random.default_rng(0)) == max(0.0, -extreme)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_the_step_in_slices_is_the_step_in_whole(momentum: float, decay: float) -> None:
    rng = np.random.default_rng(0)
    shape = (3, tree.SLICE - 5)
    parameter, gradient, velocity = (rng.normal(size=shape).astype(np.float32) for _ in range(3))
    moving = velocity * np.float32(momentum) + (gradient + np.float32(decay) * parameter) if momentum else gradient + np.float32(decay) * parameter
    expected = parameter - np.float32(0.1) * moving
    kept = gradient.copy()
    descend(parameter, gradient, 0.1, velocity if momentum else None, momentum, decay)
    np.testing.assert_allclose(parameter, expected, rtol=1e-6, atol=1e-7)
    assert np.array_equal(gradient, kept), "the model's own gradient was written to"
    if momentum:
        np.testing.assert_allclose(velocity, moving, rtol=1e-6, atol=1e-7)


def test_a_gradient_in_another_memory_order_is_applied_right() -> None:
    parameter, gradient = np.zeros((3, 4)), np.asfortranarray(np.arange(12.0).reshape(3, 4))
    descend(parameter, gradient, 1.0, None, 0.0, 0.0)
    assert np.array_equal(parameter, -np.arange(12.0).reshape(3, 4))


def test_what_is_handed_out_cannot_be_written_to() -> None:
    lent = learner(Linear(2), "regression", 2).parameters()
    with pytest.raises(ValueError, match="read-only"):
        lent["coefficients"] += 1


class Broken:
    """A model of a study, wrong in one way."""

    def __init__(self, initial: Any = None, gradient: Any = None, scores: Any = None) -> None:
        self._initial = {"w": np.zeros(2)} if initial is None else initial
        self._gradient = {"w": np.zeros(2)} if gradient is None else gradient
        self._scores = scores

    def initial(self, rng: np.random.Generator) -> Any:
        return self._initial

    def gradient(self, parameters: Any, features: Any, targets: Any) -> Any:
        return 0.0, self._gradient

    def predict(self, parameters: Any, features: Any) -> Any:
        return np.zeros(len(features)) if self._scores is None else self._scores


@pytest.mark.parametrize(
    "model",
    [Broken(initial={"w": np.zeros(2, np.int64)}), Broken(initial={"w": [0.0]}), Broken(initial={"w": np.zeros(2, np.float16)})],
    ids=["integers", "list", "half"],
)
def test_parameters_that_cannot_travel_are_refused(model: Broken) -> None:
    with pytest.raises(BadModel, match="float32 or float64"):
        learner(model, "regression", 2)


def test_predictions_of_a_wrong_shape_are_refused_before_any_data() -> None:
    with pytest.raises(BadModel, match="predicts shape"):
        learner(Broken(scores=np.zeros((2, 2))), "regression", 2)


@pytest.mark.parametrize("gradient", [{}, {"w": np.zeros(3)}, {"w": np.zeros(2), "v": np.zeros(2)}, {"w": np.zeros((2, 1))}])
def test_gradients_of_another_form_are_refused(gradient: dict[str, np.ndarray]) -> None:
    with pytest.raises(BadModel):
        descended(learner(Broken(gradient=gradient), "regression", 2), Samples(np.zeros((3, 2)), np.zeros(3)), 1)


def test_there_is_no_gpu_for_numpy() -> None:
    with pytest.raises(NotAvailable, match="CPU"):
        NumpyLearner(lambda: Linear(1), Recipe(Training(), Target(name="y", kind="regression"), 1, (1,)), "cuda")
