"""scikit-learn's linear models for stochastic gradient descent, float64: one update per row, w ← w − η·(∂loss/∂w + α·penalty′(w)).

``coef_`` and ``intercept_`` have scikit-learn's shapes: binary (1, p), (1,); multiclass (K, p), (K,), each class against the rest; regression
(p,), (1,). All losses are convex, so they start from zeros. The classes are the study's, whichever of them a site has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any, final

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import SGDClassifier, SGDRegressor

from aimer2.core.errors import BadUpdate
from aimer2.models.options import SgdOptions

Array = npt.NDArray[Any]

_LOSSES: Mapping[str, Callable[[Array], Array]] = {
    "log_loss": lambda margin: np.logaddexp(0.0, -margin),
    "hinge": lambda margin: np.maximum(0.0, 1.0 - margin),
    "perceptron": lambda margin: np.maximum(0.0, -margin),
}
"""By the margin: the decision value, with its sign turned where the row is not of the class."""


@final
class Sgd:
    """One of scikit-learn's two estimators, told its parameters and classes before it has seen a row."""

    def __init__(self, estimator: Any, features: int, outputs: int, options: SgdOptions) -> None:
        """``outputs`` 0 is a regression; else a binary target has 1, a multiclass one as many as classes."""
        self._estimator = estimator.set_params(
            alpha=options.alpha,
            penalty=None if options.penalty == "none" else options.penalty,
            fit_intercept=options.intercept,
            learning_rate="constant",
            # the batches are drawn by the study's stream: another shuffle would hide a second one
            shuffle=False,
            random_state=0,
        )
        self._classes = np.arange(max(2, outputs)) if outputs else None
        self._intercept = options.intercept
        estimator.coef_ = np.zeros((outputs, features) if outputs else features)
        estimator.intercept_ = np.zeros(max(1, outputs))

    def get_parameters(self) -> Mapping[str, Array]:
        found = {"coef_": self._estimator.coef_}
        return found | {"intercept_": self._estimator.intercept_} if self._intercept else found

    def set_parameters(self, parameters: Mapping[str, Array]) -> None:
        for name, leaf in parameters.items():
            setattr(self._estimator, name, leaf)

    def fit(self, features: Array, targets: Array, learning_rate: float) -> None:
        """Raises BadUpdate where it runs out of the numbers."""
        self._estimator.eta0 = learning_rate
        known = {} if self._classes is None else {"classes": self._classes}
        try:
            self._estimator.partial_fit(features, targets, **known)
        except ValueError:
            raise BadUpdate("The training loss is not finite.") from None

    def predict(self, features: Array) -> Array:
        return self._decision(features).reshape(-1)

    def predict_proba(self, features: Array) -> Array:
        """The logistic function of the decision values, over all classes scaled to 1: scikit-learn's own for the logarithmic loss."""
        with np.errstate(over="ignore"):
            each = 1.0 / (1.0 + np.exp(-self._decision(features)))
        if each.shape[1] == 1:
            return np.hstack([1.0 - each, each])
        total = each.sum(axis=1, keepdims=True)
        return np.where(total > 0, each / np.where(total > 0, total, 1.0), 1.0 / each.shape[1])

    def losses(self, features: Array, targets: Array) -> Array:
        """Per row, over all classes: what its steps go down, without the penalty; of the squared error, which they halve, the whole."""
        decision = self._decision(features)
        if self._classes is None:
            squared: Array = (decision[:, 0] - targets) ** 2
            return squared
        true = (targets == 1)[:, None] if decision.shape[1] == 1 else targets[:, None] == self._classes
        margin = np.where(true, decision, -decision)
        with np.errstate(invalid="ignore"):
            each: Array = _LOSSES[self._estimator.loss](margin).sum(axis=1)
        return each

    def _decision(self, features: Array) -> Array:
        decision: Array = features @ np.atleast_2d(self._estimator.coef_).T + self._estimator.intercept_
        return decision


def build_linear(feature_shape: tuple[int, ...], outputs: int, options: SgdOptions) -> Sgd:
    """Squared error."""
    return Sgd(SGDRegressor(loss="squared_error"), prod(feature_shape), 0, options)


def build_logistic(feature_shape: tuple[int, ...], outputs: int, options: SgdOptions) -> Sgd:
    return Sgd(SGDClassifier(loss="log_loss"), prod(feature_shape), outputs, options)


def build_svm(feature_shape: tuple[int, ...], outputs: int, options: SgdOptions) -> Sgd:
    """Hinge loss."""
    return Sgd(SGDClassifier(loss="hinge"), prod(feature_shape), outputs, options)


def build_perceptron(feature_shape: tuple[int, ...], outputs: int, options: SgdOptions) -> Sgd:
    return Sgd(SGDClassifier(loss="perceptron"), prod(feature_shape), outputs, options)
