"""What a method asks of a learner, found out by letting its site half run on one that trains nothing.

So a study is refused before any site is asked, and a method from outside needs no list to stand in.
"""

from __future__ import annotations

from typing import Any, final

import numpy as np
import numpy.typing as npt

from aimer2.algorithms import catalogue
from aimer2.core.dataset import Dataset, Samples
from aimer2.core.errors import AimerError, Fault
from aimer2.core.protocols import Algorithm, Correction, Local, Selector
from aimer2.core.said import say
from aimer2.core.study import Study
from aimer2.core.tree import Tree
from aimer2.learners.catalogue import corrects, frameworks
from aimer2.study.trees import FRAMEWORK


def faults(study: Study) -> list[Fault]:
    """Whether the method corrects gradients, or takes that of all rows, with a framework that shows none; or works on others only."""
    framework, name = study.model.framework, study.method.name
    try:
        method = catalogue.make(name, study.method.rounds, study.method.parameters)
        known = catalogue.frameworks(name)
        if odd := [other for other in frameworks(study) if known and other not in known]:
            remedy = say("train with {known} alone", known=" or ".join(known))
            return [
                Fault(
                    "method.name",
                    say("{name} works on models of {known}, not on those of {odd}", name=name, known=", ".join(known), odd=odd[0]),
                    remedy,
                )
            ]
        # which methods grow trees is told with the trees
        reason = None if corrects(framework) or framework == FRAMEWORK else why_gradients(method)
    except AimerError:
        # no such method, which is told elsewhere; or it looks for parts of the model that this one does not have
        return []
    if reason is None:
        return []
    problem = say("{name} {reason}, and {framework} takes its steps out of sight", name=name, reason=reason, framework=framework)
    return [Fault("method.name", problem, "take fedavg, fedavgm or fedadam, or another framework")]


def why_gradients(algorithm: Algorithm[Any]) -> str | None:
    """What the site half does with gradients; None where it leaves them to the learner."""
    received = algorithm.broadcast(algorithm.init(_MODEL))
    rows = Samples(np.zeros((4, 1)), np.array([0, 1, 0, 1]), groups=np.eye(2)[[0, 1, 0, 1]])
    site = Local(data=rows, learner=_Blind(), memory={}, rng=np.random.default_rng(0), round_number=1, steps=_STEPS, batch_size=_BATCH)
    try:
        algorithm.local(received, site)
    except _Asked as asked:
        return str(asked)
    return None


_MODEL = {"first.weight": np.zeros(1), "last.weight": np.zeros(1)}
_STEPS, _BATCH = 2, 1


@final
class _Asked(Exception):
    """The method has asked for what is not to be seen."""


@final
class _Blind:
    """A learner of two numbers that stay as they are."""

    buffers: frozenset[str] = frozenset()

    def initialise(self, rng: np.random.Generator) -> None:
        """They are zero."""

    def parameters(self) -> Tree:
        return _MODEL

    def load(self, parameters: Tree) -> None:
        """Nothing is kept."""

    def native(self, tree: Tree) -> Tree:
        return tree

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
        if correction is not None:
            raise _Asked("corrects each gradient")
        if batch_size != _BATCH:
            raise _Asked("takes the gradient of all rows at once")
        return 0.0

    def predict(self, data: Dataset) -> npt.NDArray[Any]:
        return np.zeros(len(data))

    def evaluate(self, data: Dataset) -> Tree:
        return {"count": np.array([len(data)]), "loss": np.ones(1)}
