"""Linear, logistic and multinomial regression in numpy, float64: each says its mean loss, the gradient of it, and its prediction.

X (n, p) features, w = ``coefficients``, b = ``intercept``, η = Xw + b, y targets. Features of more than one dimension are flattened. All
three are convex, so they start from zeros: where they end does not depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, final

import numpy as np
import numpy.typing as npt

from aimer2.models.options import LinearOptions

Array = npt.NDArray[Any]
Parameters = Mapping[str, Array]


@final
@dataclass(frozen=True, slots=True)
class Linear:
    """Linear regression: loss mean (η − y)². ``coefficients`` (p,), ``intercept`` (1,)."""

    features: int
    intercept: bool = True

    def initial(self, rng: np.random.Generator) -> dict[str, Array]:
        return _zeros((self.features,), (1,), self.intercept)

    def gradient(self, parameters: Parameters, features: Array, targets: Array) -> tuple[float, dict[str, Array]]:
        error = _predictor(parameters, features) - targets
        return float(error @ error) / len(error), _gradient(2.0 * error, features, self.intercept)

    def predict(self, parameters: Parameters, features: Array) -> Array:
        return _predictor(parameters, features)


@final
@dataclass(frozen=True, slots=True)
class Logistic:
    """Logistic regression: loss mean ln(1 + e^η) − yη, y 0 or 1. ``coefficients`` (p,) log odds ratios, ``intercept`` (1,)."""

    features: int
    intercept: bool = True

    def initial(self, rng: np.random.Generator) -> dict[str, Array]:
        return _zeros((self.features,), (1,), self.intercept)

    def gradient(self, parameters: Parameters, features: Array, targets: Array) -> tuple[float, dict[str, Array]]:
        predictor = _predictor(parameters, features)
        partition = np.logaddexp(0.0, predictor)
        loss = float(np.mean(partition - targets * predictor))
        return loss, _gradient(np.exp(predictor - partition) - targets, features, self.intercept)

    def predict(self, parameters: Parameters, features: Array) -> Array:
        predictor = _predictor(parameters, features)
        probability: Array = np.exp(predictor - np.logaddexp(0.0, predictor))
        return probability


@final
@dataclass(frozen=True, slots=True)
class Multinomial:
    """Multinomial regression: loss mean −ln softmax(η)[y], y a class number from 0. ``coefficients`` (p, K), ``intercept`` (K,).

    All K classes have coefficients (no reference class): started from zeros they stay centred, Σ over classes = 0.
    """

    features: int
    classes: int
    intercept: bool = True

    def initial(self, rng: np.random.Generator) -> dict[str, Array]:
        return _zeros((self.features, self.classes), (self.classes,), self.intercept)

    def gradient(self, parameters: Parameters, features: Array, targets: Array) -> tuple[float, dict[str, Array]]:
        logarithms = _log_softmax(_predictor(parameters, features))
        rows = np.arange(len(logarithms))
        residual = np.exp(logarithms)
        residual[rows, targets] -= 1.0
        return -float(np.mean(logarithms[rows, targets])), _gradient(residual, features, self.intercept)

    def predict(self, parameters: Parameters, features: Array) -> Array:
        probabilities: Array = np.exp(_log_softmax(_predictor(parameters, features)))
        return probabilities


def _zeros(coefficients: tuple[int, ...], intercept: tuple[int, ...], with_intercept: bool) -> dict[str, Array]:
    parameters = {"coefficients": np.zeros(coefficients)}
    return parameters | {"intercept": np.zeros(intercept)} if with_intercept else parameters


def _table(features: Array) -> Array:
    return features.reshape(len(features), -1)


def _predictor(parameters: Parameters, features: Array) -> Array:
    predictor: Array = _table(features) @ parameters["coefficients"]
    if "intercept" in parameters:
        predictor += parameters["intercept"]
    return predictor


def _gradient(residual: Array, features: Array, with_intercept: bool) -> dict[str, Array]:
    """The gradient of a mean loss whose derivative by η is ``residual``, (n,) or (n, K)."""
    residual /= len(residual)
    gradient = {"coefficients": _table(features).T @ residual}
    return gradient | {"intercept": np.atleast_1d(residual.sum(axis=0))} if with_intercept else gradient


def _log_softmax(predictor: Array) -> Array:
    predictor -= predictor.max(axis=1, keepdims=True)
    predictor -= np.log(np.exp(predictor).sum(axis=1, keepdims=True))
    return predictor


def build_linear(feature_shape: tuple[int, ...], outputs: int, options: LinearOptions) -> Linear:
    return Linear(prod(feature_shape), options.intercept)


def build_logistic(feature_shape: tuple[int, ...], outputs: int, options: LinearOptions) -> Logistic:
    return Logistic(prod(feature_shape), options.intercept)


def build_multinomial(feature_shape: tuple[int, ...], outputs: int, options: LinearOptions) -> Multinomial:
    return Multinomial(prod(feature_shape), outputs, options.intercept)
