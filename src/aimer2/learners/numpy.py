"""Any model that can say its loss and gradient in numpy: the exact reference, and the seam for models without a framework.

A model is an object with three functions (`Model`); the built-in ones are in `aimer2.models.linear`. Training is gradient descent,

    v ← momentum·v + (g + weight_decay·w)
    w ← w − learning_rate·v

with v = 0 at the start of each round, the same as `torch.optim.SGD`; weight decay reaches every parameter, the intercept too.
"""

from __future__ import annotations

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


class Model(Protocol):
    """A model in numpy; what a study's ``build`` returns. Holds no parameters of its own."""

    def initial(self, rng: np.random.Generator) -> dict[str, Array]:
        """Untrained parameters, float32 or float64."""
        ...

    def gradient(self, parameters: Mapping[str, Array], features: Array, targets: Array) -> tuple[float, Mapping[str, Array]]:
        """Mean loss over the rows, and its gradient by every parameter."""
        ...

    def predict(self, parameters: Mapping[str, Array], features: Array) -> Array:
        """Binary: ``(n,)`` probability of the event; multiclass: ``(n, classes)``; regression: ``(n,)``."""
        ...


@final
class NumpyLearner:
    """Trains a `Model` by gradient descent in the precision of its own parameters.

    A step reads and writes each parameter once, in slices that stay in the core's cache. ``parameters`` lends the arrays themselves,
    read-only; the next ``load`` or ``fit`` goes on in others.
    """

    def __init__(self, build: Callable[[], Model], recipe: Recipe, device: str | None = None) -> None:
        """Raises BadModel where the model's parameters or predictions have a wrong form, NotAvailable for another device than the CPU."""
        if device not in (None, "cpu"):
            raise NotAvailable("A numpy model computes on the CPU only.", remedy="Leave the device out, or use framework = 'torch'.")
        self._model = build()
        self._recipe = recipe
        self._velocity: dict[str, Array] = {}
        self.initialise(np.random.default_rng(0))
        self._predict(np.zeros((2, *recipe.feature_shape)))

    @property
    def buffers(self) -> frozenset[str]:
        return frozenset()

    def initialise(self, rng: np.random.Generator) -> None:
        fresh = dict(self._model.initial(rng))
        for name, leaf in fresh.items():
            if not isinstance(leaf, np.ndarray) or leaf.dtype not in (np.float32, np.float64):
                raise BadModel(say("Parameter {name} is not an array of float32 or float64.", name=name))
        self._parameters = {name: np.array(leaf, order="C") for name, leaf in fresh.items()}
        self._dtype = np.result_type(*self._parameters.values()) if self._parameters else np.dtype(np.float64)
        self._lent = False

    def parameters(self) -> Tree:
        self._lent = True
        lent = {name: leaf.view() for name, leaf in self._parameters.items()}
        for leaf in lent.values():
            leaf.flags.writeable = False
        return lent

    def load(self, parameters: Tree) -> None:
        check_fits(self._parameters, parameters)
        if self._lent:
            self._parameters = {name: np.empty_like(leaf) for name, leaf in self._parameters.items()}
            self._lent = False
        for name, leaf in self._parameters.items():
            np.copyto(leaf, tree.load(parameters[name]), casting="same_kind")

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
        """The correction gets the parameters themselves: they change after it has returned. No steps: 0."""
        self._recipe.check(data)
        self._own()
        moving = {name: leaf for name, leaf in self._parameters.items() if trainable is None or name in trainable}
        self._velocity = {name: np.zeros_like(leaf) for name, leaf in moving.items()} if self._recipe.training.momentum else {}
        rate = self._recipe.learning_rate(round_number)
        total, held = 0.0, None
        with np.errstate(all="ignore"):
            for rows in batches(len(data), batch_size=batch_size, steps=steps, rng=rng):
                if rows is not held:
                    features, targets = self._rows(data, rows)
                    held = rows
                loss, gradients = self._model.gradient(self._parameters, features, targets)
                if not isfinite(loss):
                    raise BadUpdate("The training loss is not finite.")
                total += float(loss)
                gradients = {name: gradient for name, gradient in gradients.items() if trainable is None or name in trainable}
                if correction is not None:
                    gradients = correction(moving, gradients)
                self._descend(moving, gradients, rate)
        return total / steps if steps else 0.0

    def predict(self, data: Dataset) -> Array:
        return self._measured(data)[0]

    def evaluate(self, data: Dataset) -> Tree:
        self._recipe.check(data)
        scores, loss = self._measured(data, with_loss=True)
        return measure(self._recipe.target.kind, scores, np.asarray(data.targets), loss, self._recipe.metrics)

    def _own(self) -> None:
        if self._lent:
            self._parameters = {name: leaf.copy() for name, leaf in self._parameters.items()}
            self._lent = False

    def _rows(self, data: Dataset, rows: npt.NDArray[np.int64]) -> tuple[Array, Array]:
        features, targets = data.batch(rows)
        kind = np.int64 if self._recipe.target.kind == "multiclass" else self._dtype
        return np.asarray(features, self._dtype), np.asarray(targets, kind)

    def _descend(self, moving: Mapping[str, Array], gradients: Tree, rate: float) -> None:
        check_fits(moving, gradients)
        for name, parameter in moving.items():
            velocity = self._velocity.get(name)
            descend(parameter, gradients[name], rate, velocity, self._recipe.training.momentum, self._recipe.training.weight_decay)

    def _measured(self, data: Dataset, *, with_loss: bool = False) -> tuple[Array, float]:
        """Scores of all rows and, if asked for, the sum of their losses."""
        scores, loss = np.empty((len(data), *self._recipe.score_shape)), 0.0
        chunk = max(1, CHUNK // max(1, prod(self._recipe.feature_shape)))
        for start in range(0, len(data), chunk):
            rows = np.arange(start, min(start + chunk, len(data)))
            features, targets = self._rows(data, rows)
            scores[rows] = self._predict(features)
            if with_loss:
                with np.errstate(all="ignore"):
                    loss += float(self._model.gradient(self._parameters, features, targets)[0]) * len(rows)
        return scores, loss

    def _predict(self, features: Array) -> Array:
        with np.errstate(all="ignore"):
            scores = np.asarray(self._model.predict(self._parameters, features))
        expected = (len(features), *self._recipe.score_shape)
        if scores.shape != expected:
            raise BadModel(say("The model predicts shape {shape} where {expected} was expected.", shape=scores.shape, expected=expected))
        return scores


def check_fits(own: Mapping[str, Array], given: Tree) -> None:
    """Raises BadModel unless both have the same names and shapes."""
    if own.keys() != given.keys():
        raise BadModel(
            say("The model's parameters are {own}; given were {given}.", own=", ".join(sorted(own)), given=", ".join(sorted(given)) or say("none"))
        )
    for name, leaf in own.items():
        if tuple(given[name].shape) != leaf.shape:
            raise BadModel(say("Parameter {name} has shape {shape}; given was {other}.", name=name, shape=leaf.shape, other=tuple(given[name].shape)))


def descend(  # one argument per symbol of the formula at the head
    parameter: Array, gradient: Array, rate: float, velocity: Array | None, momentum: float, weight_decay: float
) -> None:
    """One step of gradient descent, in place; the gradient is only read."""
    flat, steep = parameter.reshape(-1), gradient.reshape(-1)
    moving = None if velocity is None else velocity.reshape(-1)
    scratch = np.empty(min(flat.size, tree.SLICE), parameter.dtype)
    for start in range(0, flat.size, tree.SLICE):
        here = slice(start, start + tree.SLICE)
        part, direction = flat[here], steep[here]
        work = scratch[: part.size]
        if weight_decay:
            np.multiply(part, weight_decay, out=work)
            work += direction
            direction = work
        if moving is not None:
            moving[here] *= momentum
            moving[here] += direction
            direction = moving[here]
        np.multiply(direction, rate, out=work, casting="same_kind")
        part -= work
