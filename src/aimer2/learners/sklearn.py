"""scikit-learn's linear models by stochastic gradient descent, and any estimator that can say and take its parameters as arrays.

An estimator is an object with four functions (`Estimator`); the built-in ones are in `aimer2.models.sklearn`. What travels is what
``get_parameters`` gives, averaged by rows, so its mean over sites must mean something. A step is one call of ``fit`` on one batch of rows: the
built-in models take one update per row in it, in the order of the batch. There are no gradients to correct: a method that corrects them is
refused. Loss: what the estimator's own ``losses(features, targets)`` say per row; where it has none, the logarithmic loss of the probabilities,
for a regression the squared error. Nothing is pickled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from math import isfinite, prod
from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt

from aimer2.core import tree
from aimer2.core.dataset import Dataset
from aimer2.core.errors import BadModel, BadUpdate, NotAvailable
from aimer2.core.protocols import Correction, Selector
from aimer2.core.said import say
from aimer2.core.tree import Tree
from aimer2.learners.batches import batches
from aimer2.learners.recipe import Recipe
from aimer2.metrics.figures import measure

Array = npt.NDArray[Any]

CHUNK = 1 << 22
"""Feature values predicted at a time."""

SMALLEST = 1e-15
"""A probability below counts as this in the loss."""


class Estimator(Protocol):
    """A model in scikit-learn's manner; what a study's ``build`` returns. It knows all classes from the start: a site may have rows of one."""

    def get_parameters(self) -> Mapping[str, Array]:
        """Float arrays by name, of the same shapes before and after every fit."""
        ...

    def set_parameters(self, parameters: Mapping[str, Array]) -> None:
        """Goes on from these: a fit must not start anew."""
        ...

    def fit(self, features: Array, targets: Array, learning_rate: float) -> None:
        """One step on these rows; targets are class numbers from 0, or numbers. ``learning_rate`` is the study's in this round."""
        ...

    def predict_proba(self, features: Array) -> Array:
        """``(n, classes)``, the classes in the order of their numbers; for a regression ``predict(features)`` instead, ``(n,)``."""
        ...


@final
class SklearnLearner:
    """Trains an `Estimator` batch by batch, on the CPU."""

    def __init__(self, build: Callable[[], Any], recipe: Recipe, device: str | None = None) -> None:
        """Raises BadModel where parameters or predictions have a wrong form, NotAvailable for another device than the CPU."""
        if device not in (None, "cpu"):
            raise NotAvailable("scikit-learn computes on the CPU only.", remedy="Leave the device out, or use framework = 'torch'.")
        self._build = build
        self._recipe = recipe
        self.initialise(np.random.default_rng(0))
        self._scores(np.zeros((2, *recipe.feature_shape)))

    @property
    def buffers(self) -> frozenset[str]:
        return frozenset()

    def initialise(self, rng: np.random.Generator) -> None:
        _seed(rng)
        self._estimator = self._build()
        wanted = "predict" if self._recipe.target.kind == "regression" else "predict_proba"
        if missing := [name for name in ("get_parameters", "set_parameters", "fit", wanted) if not hasattr(self._estimator, name)]:
            raise BadModel(say("What `build` returned has no {missing}.", missing=", no ".join(missing)))
        self._shapes: dict[str, tuple[int, ...]] = {}
        given = self.parameters()
        self._shapes = {name: leaf.shape for name, leaf in given.items()}

    def parameters(self) -> Tree:
        given = self._estimator.get_parameters()
        for name, leaf in given.items():
            if not isinstance(leaf, np.ndarray) or leaf.dtype not in (np.float32, np.float64):
                raise BadModel(say("Parameter {name} is not an array of float32 or float64.", name=name))
        if self._shapes:
            _check_shapes(self._shapes, given)
        return {name: np.array(leaf, order="C") for name, leaf in given.items()}

    def load(self, parameters: Tree) -> None:
        _check_shapes(self._shapes, parameters)
        own = self._estimator.get_parameters()
        self._estimator.set_parameters({name: np.array(tree.load(parameters[name]), own[name].dtype, order="C") for name in own})

    def native(self, tree_: Tree) -> Tree:
        return {name: tree.load(leaf) for name, leaf in tree_.items()}

    def fit(
        self,
        data: Dataset,
        *,
        steps: int,
        batch_size: int | None,
        round_number: int,
        rng: np.random.Generator,
        correction: Correction | None = None,
        trainable: Selector | None = None,
    ) -> float:
        """The mean over the steps of the loss before each. No steps: 0. What is not ``trainable`` is put back after each step.

        Raises NotAvailable where gradients are to be corrected.
        """
        if correction is not None:
            raise NotAvailable("scikit-learn's learner has no gradients to correct.", remedy="Use fedavg, or framework = 'torch' or 'numpy'.")
        self._recipe.check(data)
        # off a copy, so that the batches are those of every other framework
        _seed(copy.deepcopy(rng))
        rate, total = self._recipe.learning_rate(round_number), 0.0
        for rows in batches(len(data), batch_size=batch_size, steps=steps, rng=rng):
            features, targets = self._rows(data, rows)
            loss = self._losses(self._scores(features), features, targets).mean()
            if not isfinite(loss):
                raise BadUpdate("The training loss is not finite.")
            total += float(loss)
            before = None if trainable is None else self.parameters()
            self._estimator.fit(features, targets, rate)
            if before is not None and trainable is not None:
                self._estimator.set_parameters({n: (leaf if n in trainable else before[n]) for n, leaf in self.parameters().items()})
        return total / steps if steps else 0.0

    def predict(self, data: Dataset) -> Array:
        return self._measured(data)[0]

    def evaluate(self, data: Dataset) -> Tree:
        self._recipe.check(data)
        scores, loss = self._measured(data)
        return measure(self._recipe.target.kind, scores, np.asarray(data.targets), loss, self._recipe.metrics)

    def _rows(self, data: Dataset, rows: npt.NDArray[np.int64]) -> tuple[Array, Array]:
        features, targets = data.batch(rows)
        kind = np.float64 if self._recipe.target.kind == "regression" else np.int64
        return np.asarray(features, np.float64).reshape(len(rows), -1), np.asarray(targets).astype(kind)

    def _measured(self, data: Dataset) -> tuple[Array, float]:
        """Scores of all rows and the sum of their losses."""
        scores, loss = np.empty((len(data), *self._recipe.score_shape)), 0.0
        chunk = max(1, CHUNK // max(1, prod(self._recipe.feature_shape)))
        for start in range(0, len(data), chunk):
            rows = np.arange(start, min(start + chunk, len(data)))
            features, targets = self._rows(data, rows)
            scores[rows] = self._scores(features)
            loss += float(self._losses(scores[rows], features, targets).sum())
        return scores, loss

    def _scores(self, features: Array) -> Array:
        """Raises BadModel where the estimator predicts a wrong shape. Features that are no numbers have no score: scikit-learn refuses them."""
        features = features.reshape(len(features), -1)
        kind, rows = self._recipe.target.kind, len(features)
        if not np.isfinite(features).all():
            return np.full((rows, *self._recipe.score_shape), np.nan)
        predict = self._estimator.predict if kind == "regression" else self._estimator.predict_proba
        found = np.asarray(predict(features), np.float64)
        expected = (rows,) if kind == "regression" else (rows, self._recipe.target.classes)
        if found.shape != expected:
            raise BadModel(say("The estimator predicts shape {shape} where {expected} was expected.", shape=found.shape, expected=expected))
        return found[:, 1] if kind == "binary" else found

    def _losses(self, scores: Array, features: Array, targets: Array) -> Array:
        if hasattr(self._estimator, "losses"):
            own: Array = np.asarray(self._estimator.losses(features, targets), np.float64)
            return own
        if self._recipe.target.kind == "regression":
            with np.errstate(over="ignore"):
                squared: Array = (scores - targets) ** 2
            return squared
        true = np.where(targets == 1, scores, 1 - scores) if scores.ndim == 1 else scores[np.arange(len(targets)), targets]
        losses: Array = -np.log(np.maximum(true, SMALLEST))
        return losses


def _seed(rng: np.random.Generator) -> None:
    """Estimators without a state of their own draw from numpy's generator of the process."""
    np.random.seed(int(rng.integers(2**32)))


def _check_shapes(own: Mapping[str, tuple[int, ...]], given: Tree) -> None:
    """Raises BadModel unless both have the same names and shapes."""
    if own.keys() != given.keys():
        raise BadModel(
            say("The model's parameters are {own}; given were {given}.", own=", ".join(sorted(own)), given=", ".join(sorted(given)) or say("none"))
        )
    for name, shape in own.items():
        if tuple(given[name].shape) != shape:
            raise BadModel(say("Parameter {name} has shape {shape}; given was {other}.", name=name, shape=shape, other=tuple(given[name].shape)))
