"""Trees that a federation grows together: what a site computes with the trees so far, and how it measures them.

They are grown by a method (`aimer2.algorithms.boosted_trees`, `random_trees`), not trained by steps. The bins of the rows and what finished trees
say of them are kept from one round to the next; they follow from rows and trees alone, so a site that has lost them computes the same bits again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt

from aimer2.core import tree
from aimer2.core.dataset import Dataset
from aimer2.core.errors import BadModel, NotAvailable
from aimer2.core.protocols import Correction, Selector
from aimer2.core.said import say
from aimer2.core.tree import Tree
from aimer2.learners.recipe import Recipe
from aimer2.metrics.figures import measure

Array = npt.NDArray[Any]
Codes = npt.NDArray[np.uint8]

_OF_A_TREE = ("feature", "bin", "missing_left", "value")
_KEPT = 2
"""Data sets remembered: the training rows and the held-out ones."""


class Forest(Protocol):
    """The form of the trees, and what they say; `aimer2.models.trees` has it."""

    @property
    def features(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    def initial(self) -> dict[str, Array]: ...
    def grown(self, parameters: Mapping[str, Array]) -> int: ...
    def codes(self, parameters: Mapping[str, Array], features: Array) -> Codes: ...
    def nodes(self, parameters: Mapping[str, Array], codes: Codes, number: int, output: int) -> npt.NDArray[np.intp]: ...
    def add(self, margins: Array, parameters: Mapping[str, Array], codes: Codes, number: int) -> None: ...


@final
@dataclass(slots=True)
class _Rows:
    """A data set's bins, and its margins after so many trees; with the arrays that both follow from."""

    data: Dataset
    codes: Codes
    margins: Array
    trees: int
    after: Mapping[str, Array]


class TreesLearner:
    """Boosted trees in numpy, on the CPU. `aimer2.learners.trees_private` tells of their leaves with noise."""

    buffers: frozenset[str] = frozenset()

    def __init__(self, build: Callable[[], Forest], recipe: Recipe, device: str | None = None) -> None:
        """Raises NotAvailable for another device than the CPU."""
        if device not in (None, "cpu"):
            raise NotAvailable("Trees are grown on the CPU only.", remedy="Leave the device out.")
        self._forest = build()
        self._recipe = recipe
        self._parameters = self.untrained()
        self._kept: list[_Rows] = []

    def initialise(self, rng: np.random.Generator) -> None:
        """There is nothing to draw: no tree."""
        self._parameters = self.untrained()

    def untrained(self) -> Mapping[str, Array]:
        """No tree yet. The step of a regression's gradients is not known before its outcome is."""
        fresh = self._forest.initial()
        return fresh | {"unit": np.zeros(1)} if self._recipe.target.kind == "regression" else fresh

    def parameters(self) -> Tree:
        return {name: leaf.copy() for name, leaf in self._parameters.items()}

    def load(self, parameters: Tree) -> None:
        own = self._parameters
        if own.keys() != parameters.keys():
            raise BadModel(
                say(
                    "The trees' arrays are {own}; given were {parameters}.",
                    own=", ".join(sorted(own)),
                    parameters=", ".join(sorted(parameters)) or say("none"),
                )
            )
        given = {name: np.array(tree.load(leaf)) for name, leaf in parameters.items()}
        for name, leaf in own.items():
            if given[name].shape != leaf.shape or given[name].dtype != leaf.dtype:
                raise BadModel(
                    say(
                        "{name} is {dtype} {shape} where {expected_dtype} {expected_shape} was expected.",
                        name=name,
                        dtype=given[name].dtype,
                        shape=given[name].shape,
                        expected_dtype=leaf.dtype,
                        expected_shape=leaf.shape,
                    )
                )
        if not np.isin(given["feature"], np.arange(-1, self._forest.features)).all() or (given["feature"][..., leaf_level(own) :] >= 0).any():
            raise BadModel("A tree asks for a feature that is not there, or asks in its last level.")
        self._parameters = given

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
        """Raises NotAvailable: trees take no steps."""
        raise NotAvailable(
            "Trees are grown from sums over their nodes, not trained by steps.", remedy="Use the method boosted_trees or random_trees."
        )

    def codes(self, data: Dataset) -> Codes:
        """The bin of each value, ``(p, n)``; the number of bins where it is missing."""
        return self._rows(data).codes

    def nodes(self, data: Dataset, number: int) -> npt.NDArray[np.intp]:
        """Where each row is in the tree of that number, ``(n, K)``."""
        codes = self.codes(data)
        return np.stack([self._forest.nodes(self._parameters, codes, number, output) for output in range(self._forest.outputs)], axis=1)

    def derivatives(self, data: Dataset, number: int) -> tuple[Array, Array]:
        """First and second derivative of each row's loss by its margins, ``(n, K)``, as the trees before this one leave them."""
        targets = np.asarray(data.targets)
        margins = self._margins(data, number)
        match self._recipe.target.kind:
            case "regression":
                return margins - targets[:, None], np.ones_like(margins)
            case "binary":
                probability = _expit(margins)
                return probability - targets[:, None], probability * (1.0 - probability)
            case _:
                probability = np.exp(_log_softmax(margins))
                return probability - (targets[:, None] == np.arange(margins.shape[1])), probability * (1.0 - probability)

    def leaves(self, data: Dataset, number: int) -> tuple[Array, Array]:
        """Sums of both derivatives over the rows in each leaf of the last level of one tree, ``(K, 2^depth)`` each. Raises BadModel for a tree that
        lacks a split."""
        return self.summed(data, number, *self.derivatives(data, number))

    def summed(self, data: Dataset, number: int, gradient: Array, curvature: Array) -> tuple[Array, Array]:
        """Sums of what is given for each row and output ``(n, K)``, by leaf."""
        first = leaf_level(self._parameters)
        if (self._parameters["feature"][number, :, :first] < 0).any():
            raise BadModel("A tree of drawn splits has one in every inner node.")
        places, shape = self.nodes(data, number) - first, (first + 1,)
        made = [np.stack([np.bincount(places[:, k], one[:, k], *shape) for k in range(places.shape[1])]) for one in (gradient, curvature)]
        return made[0], made[1]

    def outcome(self, data: Dataset) -> Array:
        """What the margin before the first tree follows from, ``(K + 2,)``: rows per class, then zeros; or of a regression n, Σy and Σy²."""
        self._recipe.check(data)
        targets = np.asarray(data.targets)
        if self._recipe.target.kind == "regression":
            return np.array([len(targets), targets.sum(), np.square(targets, dtype=np.float64).sum()], np.float64)
        return np.bincount(targets.astype(np.int64), minlength=self._forest.outputs + 2).astype(np.float64)

    def predict(self, data: Dataset) -> Array:
        return self._scores(self._now(data))

    def evaluate(self, data: Dataset) -> Tree:
        self._recipe.check(data)
        margins, targets = self._now(data), np.asarray(data.targets)
        loss = _loss(self._recipe.target.kind, margins, targets)
        return measure(self._recipe.target.kind, self._scores(margins), targets, loss, self._recipe.metrics)

    def _scores(self, margins: Array) -> Array:
        match self._recipe.target.kind:
            case "regression":
                return margins[:, 0]
            case "binary":
                return _expit(margins[:, 0])
            case _:
                scores: Array = np.exp(_log_softmax(margins))
                return scores

    def _now(self, data: Dataset) -> Array:
        """The margins after all trees; the last may still be growing, so it is not kept."""
        grown = self._forest.grown(self._parameters)
        margins = self._margins(data, max(0, grown - 1)).copy()
        if grown:
            self._forest.add(margins, self._parameters, self.codes(data), grown - 1)
        return margins

    def _margins(self, data: Dataset, trees: int) -> Array:
        """After so many finished trees, ``(n, K)``."""
        rows = self._rows(data)
        same = rows.trees <= trees and np.array_equal(rows.after["base"], self._parameters["base"])
        if not (same and all(np.array_equal(rows.after[name][: rows.trees], self._parameters[name][: rows.trees]) for name in _OF_A_TREE)):
            rows.trees, rows.margins = 0, np.tile(self._parameters["base"], (len(data), 1))
        for number in range(rows.trees, trees):
            self._forest.add(rows.margins, self._parameters, rows.codes, number)
        rows.trees, rows.after = trees, self._parameters
        return rows.margins

    def _rows(self, data: Dataset) -> _Rows:
        found = next((rows for rows in self._kept if rows.data is data), None)
        if found is not None and np.array_equal(found.after["edges"], self._parameters["edges"]):
            return found
        self._recipe.check(data)
        features = np.asarray(data.batch(np.arange(len(data)))[0], np.float64)
        made = _Rows(data, self._forest.codes(self._parameters, features), np.tile(self._parameters["base"], (len(data), 1)), 0, self._parameters)
        self._kept = [*(rows for rows in self._kept if rows.data is not data), made][-_KEPT:]
        return made


def leaf_level(parameters: Mapping[str, Array]) -> int:
    """The first node of the last level, which has leaves only."""
    return int(parameters["feature"].shape[2]) // 2


def _expit(margins: Array) -> Array:
    with np.errstate(over="ignore"):
        probability: Array = 1.0 / (1.0 + np.exp(-margins))
    return probability


def _log_softmax(margins: Array) -> Array:
    centred = margins - margins.max(axis=1, keepdims=True)
    logarithms: Array = centred - np.log(np.exp(centred).sum(axis=1, keepdims=True))
    return logarithms


def _loss(kind: str, margins: Array, targets: Array) -> float:
    """Summed over the rows."""
    match kind:
        case "regression":
            return float(np.square(margins[:, 0] - targets).sum())
        case "binary":
            return float((np.logaddexp(0.0, margins[:, 0]) - targets * margins[:, 0]).sum())
        case _:
            return -float(_log_softmax(margins)[np.arange(len(targets)), targets.astype(np.int64)].sum())
