"""Boosted trees whose splits are drawn at random, so that patients are asked for the leaves alone: trees for differential privacy.

Maddock, Cormode, Wang, Maple, Jha 2022, "Federated Boosted Decision Trees with Differential Privacy", with totally random splits and Newton's leaves:
every inner node asks for a feature and a cut that are drawn without any data, cuts evenly over the features' stated ranges; then a leaf's value is
w = −η·G/(H + λ) (Chen, Guestrin 2016, "XGBoost", equation 5), G and H the sums over all sites of the first and second derivatives of the loss by the
margin. A round is one tree of each class. A patient is in one leaf of a tree, so one sum with noise per tree is all that its privacy pays for; trees
that seek their splits pay for every feature at every level. Noise may leave H below 0, which counts as 0. Without depth it is Newton's method on the
constant.

Without noise a leaf of one patient would tell its outcome, in the published model too: studies are refused without differential privacy of patients.
A site sends the leaves of the trees that the study's own numbers draw, of no others.

Leaves the site: ``leaves`` = per class and leaf of the round's tree Σg and Σh over the training rows, with noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast, final

import numpy as np
import numpy.typing as npt

from aimer2.core import tree
from aimer2.core.dataset import Dataset
from aimer2.core.errors import BadModel, BadUpdate
from aimer2.core.protocols import Learner, Local
from aimer2.core.random import stream
from aimer2.core.ranges import ABOVE_0, AT_LEAST_0, refuse_outside
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update

Array = npt.NDArray[Any]

_DRAWN = ("feature", "bin", "missing_left")
_SUMS = ("gradient", "curvature")


class Grows(Learner, Protocol):
    """A learner whose model is trees; `aimer2.learners.trees`."""

    def leaves(self, data: Dataset, number: int) -> tuple[Array, Array]: ...
    def untrained(self) -> Mapping[str, Array]: ...


@final
@dataclass(frozen=True, slots=True)
class Growing:
    """The state: the trees, all of them drawn, and how many have their leaves."""

    model: Tree
    round_number: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RandomTrees:
    """Trees of drawn splits, each correcting those before it. ``learning_rate`` is η, ``reg_lambda`` λ; another ``drawing`` gives other splits."""

    rounds: int = 30
    learning_rate: float = 0.3
    reg_lambda: float = 10.0
    drawing: int = 0
    version: ClassVar[int] = 1
    frameworks: ClassVar[tuple[str, ...]] = ("trees",)

    def __post_init__(self) -> None:
        refuse_outside(self, learning_rate=ABOVE_0, reg_lambda=AT_LEAST_0, drawing=AT_LEAST_0)

    def init(self, model: Tree) -> Growing:
        """Raises BadModel for a model that is not trees."""
        if not model.keys() >= {*_DRAWN, "edges", "value", "count"}:
            raise BadModel("random_trees grows trees, and this model is none.", remedy="Set model.framework = 'trees'.")
        drawn = {name: np.array(tree.load(model[name])) for name in _DRAWN}
        (trees, outputs, nodes), (features, cuts) = model["feature"].shape, model["edges"].shape
        most = dict(zip(_DRAWN, (features, cuts, 2), strict=True))
        for number in range(trees):
            for output in range(outputs):
                rng = stream(self.drawing, "random_trees", number, output)
                for name, leaf in drawn.items():
                    leaf[number, output, : nodes // 2] = rng.integers(most[name], size=nodes // 2)
        return Growing({**model, **drawn})

    def select(self, state: Growing, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Growing) -> Mapping[str, Tree]:
        """The trees, and which of them gets its leaves."""
        return {"model": state.model, "tree": {"number": np.array([state.round_number], np.int64)}}

    @staticmethod
    def layouts(received: Mapping[str, Tree]) -> Mapping[str, Mapping[str, tuple[str, tuple[int, ...]]]]:
        """Type and shape of each array of each sum: what a site's agent lets out."""
        _, outputs, nodes = received["model"]["feature"].shape
        return {"leaves": dict.fromkeys(_SUMS, ("float64", (outputs, nodes // 2 + 1)))}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        """Raises BadModel for splits that the study does not draw: they could be laid around one patient."""
        learner = cast(Grows, site.learner)
        learner.load(received["model"])
        own, given = self.init(learner.untrained()).model, learner.parameters()
        if not all(np.array_equal(given[name], own[name]) for name in (*_DRAWN, "edges")):
            raise BadModel("The splits of these trees are not those that the study draws.")
        sums = learner.leaves(site.data, int(tree.scalar(received["tree"], "number")))
        return Update({"leaves": dict(zip(_SUMS, sums, strict=True))})

    def update(self, state: Growing, total: Update) -> Growing:
        """Raises BadUpdate where the sums are not those that were asked for."""
        value, count = (np.array(tree.load(state.model[name])) for name in ("value", "count"))
        gradient, curvature = (tree.load(total.sums["leaves"][name]) for name in _SUMS)
        first, number = value.shape[2] // 2, state.round_number
        if gradient.shape != value[number, :, first:].shape or curvature.shape != gradient.shape:
            raise BadUpdate("The sums of the leaves are not what was asked for.")
        under = np.maximum(curvature, 0.0) + self.reg_lambda
        value[number, :, first:] = -self.learning_rate * np.divide(gradient, under, out=np.zeros_like(under), where=under > 0)
        count[number, :, 0] = 1
        return Growing({**state.model, "value": value, "count": count}, number + 1)

    def model(self, state: Growing) -> Tree:
        return state.model

    def finished(self, state: Growing) -> bool:
        return state.round_number >= min(self.rounds, int(state.model["feature"].shape[0]))


EXAMPLE = RandomTrees(rounds=2)
