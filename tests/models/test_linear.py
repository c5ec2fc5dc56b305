"""Each gradient against finite differences of its own loss, at drawn points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimer2.models.linear import Linear, Logistic, Multinomial


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), intercept=st.booleans(), kind=st.sampled_from(["linear", "logistic", "multinomial"]))
def test_the_gradient_is_the_derivative_of_the_loss(seed: int, intercept: bool, kind: str) -> None:
    rng = np.random.default_rng(seed)
    model: Any = {"linear": Linear(3, intercept), "logistic": Logistic(3, intercept), "multinomial": Multinomial(3, 4, intercept)}[kind]
    features = rng.normal(size=(6, 3))
    targets = rng.normal(size=6) if kind == "linear" else rng.integers(0, 4 if kind == "multinomial" else 2, 6)
    parameters = {name: rng.normal(size=leaf.shape) for name, leaf in model.initial(rng).items()}
    _, gradient = model.gradient(parameters, features, targets)
    assert gradient.keys() == parameters.keys()
    for name, leaf in parameters.items():
        for index in np.ndindex(leaf.shape):
            above, below = ({**parameters, name: leaf.copy()} for _ in range(2))
            above[name][index] += 1e-6
            below[name][index] -= 1e-6
            slope = (model.gradient(above, features, targets)[0] - model.gradient(below, features, targets)[0]) / 2e-6
            assert gradient[name][index] == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_the_arguments_are_only_read() -> None:
    rng = np.random.default_rng(0)
    for model, targets in ((Linear(3), rng.normal(size=5)), (Logistic(3), np.ones(5)), (Multinomial(3, 3), np.arange(5) % 3)):
        features, parameters = rng.normal(size=(5, 3)), model.initial(rng)
        for array in (features, targets, *parameters.values()):
            array.flags.writeable = False
        model.gradient(parameters, features, targets)
        model.predict(parameters, features)


def test_two_classes_of_the_multinomial_are_the_logistic() -> None:
    rng = np.random.default_rng(1)
    features, targets, slopes = rng.normal(size=(9, 2)), rng.integers(0, 2, 9), rng.normal(size=2)
    two = {"coefficients": np.stack([np.zeros(2), slopes], axis=1), "intercept": np.array([0.0, 0.3])}
    one = {"coefficients": slopes, "intercept": np.array([0.3])}
    assert Multinomial(2, 2).gradient(two, features, targets)[0] == pytest.approx(Logistic(2).gradient(one, features, targets)[0])
    np.testing.assert_allclose(Multinomial(2, 2).predict(two, features)[:, 1], Logistic(2).predict(one, features))
    np.testing.assert_allclose(
        Multinomial(2, 2).gradient(two, features, targets)[1]["coefficients"][:, 1], Logistic(2).gradient(one, features, targets)[1]["coefficients"]
    )


def test_images_are_flattened() -> None:
    images = np.arange(12.0).reshape(2, 1, 2, 3)
    parameters = {"coefficients": np.arange(6.0)}
    np.testing.assert_array_equal(
        Linear(6, intercept=False).predict(parameters, images), Linear(6, intercept=False).predict(parameters, images.reshape(2, 6))
    )
