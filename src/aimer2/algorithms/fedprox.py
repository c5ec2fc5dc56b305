"""FedProx: a proximal term that keeps each site near the common model.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith 2020, "Federated Optimization in Heterogeneous Networks", Algorithm 2: each site minimises
F_k(w) + (μ/2)·‖w − wᵗ‖², so its gradient has μ·(w − wᵗ) added. With μ = 0 it is FedAvg.

Leaves the site: ``difference`` = n · (w_local − w_received), one array per parameter; ``weight`` = n, the number of training rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from aimer2.algorithms.fedavg import Averaged, FedAvg, train
from aimer2.core.protocols import Local
from aimer2.core.ranges import ABOVE_0, AT_LEAST_0, refuse_outside
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FedProx:
    """FedAvg with a pull towards the received model; ``mu`` is the strength of the pull (0.001 to 1 are usual)."""

    rounds: int = 10
    mu: float = 0.01
    server_learning_rate: float = 1.0
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        refuse_outside(self, mu=AT_LEAST_0, server_learning_rate=ABOVE_0)

    @property
    def averaging(self) -> FedAvg:
        return FedAvg(rounds=self.rounds, server_learning_rate=self.server_learning_rate)

    def init(self, model: Tree) -> Averaged:
        return Averaged(model)

    def select(self, state: Averaged, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Averaged) -> Mapping[str, Tree]:
        return {"model": state.model}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        anchor = site.learner.native(received["model"])

        def pull(parameters: Tree, gradients: Tree) -> Tree:
            return {name: gradient + self.mu * (parameters[name] - anchor[name]) for name, gradient in gradients.items()}

        return train(received["model"], site, pull)

    def update(self, state: Averaged, total: Update) -> Averaged:
        return self.averaging.update(state, total)

    def model(self, state: Averaged) -> Tree:
        return state.model

    def finished(self, state: Averaged) -> bool:
        return self.averaging.finished(state)


EXAMPLE = FedProx(rounds=3, mu=0.1)
