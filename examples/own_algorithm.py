"""A federated method of one's own, and the loop without a study file.

    pip install .
    python examples/own_algorithm.py

Federated averaging in which every hospital counts the same, however many patients it has. Both halves are in one class; put it into a
module of a package, name that in the entry-point group ``aimer2.algorithms``, and a study can name it too (docs/methods.md).

Leaves the site: ``difference`` = w_local − w_received, one array per parameter; ``weight`` = 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from aimer2 import federate
from aimer2.algorithms.fedavg import Averaged, FedAvg, train
from aimer2.core import tree
from aimer2.core.dataset import Samples
from aimer2.core.protocols import Algorithm, Local
from aimer2.core.study import Target, Training
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update
from aimer2.learners.numpy import NumpyLearner
from aimer2.learners.recipe import Recipe
from aimer2.models.linear import Logistic


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EqualSites:
    """FedAvg whose weights are 1 at each site."""

    rounds: int = 10
    version: ClassVar[int] = 1

    def init(self, model: Tree) -> Averaged:
        return Averaged(model)

    def select(self, state: Averaged, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Averaged) -> Mapping[str, Tree]:
        return {"model": state.model}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        rows = len(site.data)
        difference = train(received["model"], site).sums["difference"]
        return Update({"difference": tree.map(lambda d: d / rows, difference), "weight": {"rows": np.ones(1)}})

    def update(self, state: Averaged, total: Update) -> Averaged:
        return FedAvg(rounds=self.rounds).update(state, total)

    def model(self, state: Averaged) -> Tree:
        return state.model

    def finished(self, state: Averaged) -> bool:
        return state.round_number >= self.rounds


EXAMPLE = EqualSites(rounds=3)


def hospital(seed: int, patients: int, slope: float) -> Samples:
    """One finding, and an event whose log odds are ``slope`` times it."""
    rng = np.random.default_rng(seed)
    finding = rng.normal(size=(patients, 1))
    return Samples(finding, (rng.random(patients) < 1 / (1 + np.exp(-slope * finding[:, 0]))).astype(np.int64))


def main() -> None:
    recipe = Recipe(Training(learning_rate=0.5), Target(name="event"), rounds=20, feature_shape=(1,))
    data = {"large": hospital(1, 900, 0.5), "small": hospital(2, 100, 2.5)}
    algorithms: list[Algorithm[Averaged]] = [FedAvg(rounds=20), EqualSites(rounds=20)]
    for algorithm in algorithms:
        sites = {name: (NumpyLearner(lambda: Logistic(1), recipe), samples) for name, samples in data.items()}
        model = federate(algorithm, sites, rounds=20, steps=5)
        print(f"{type(algorithm).__name__:10} log odds ratio {model['coefficients'][0]:.2f}")


if __name__ == "__main__":
    main()
