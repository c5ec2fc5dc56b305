"""FedAdagrad: Adagrad at the coordinator, whose steps only ever become smaller.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan 2021, "Adaptive Federated Optimization", Algorithm 2: m ← β₁·m + (1 − β₁)·Δ,
v ← v + Δ², w ← w + η·m / (√v + τ), where Δ is FedAvg's mean difference.
As in the paper v starts at τ², m at 0, without correction for that start. With β₁ = 0 it is plain Adagrad.

Leaves the site: ``difference`` = n · (w_local − w_received), one array per parameter; ``weight`` = n, the number of training rows;
``buffers`` = n for an array of running means, else 0, one number per parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from aimer2.algorithms.adaptive import Adapted, Adaption, train_marked
from aimer2.core.protocols import Local
from aimer2.core.ranges import ABOVE_0, BELOW_1, refuse_outside
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FedAdagrad:
    """FedAvg with a step per parameter; ``server_learning_rate`` is η, ``beta_1`` β₁, ``tau`` τ (larger: less adaptive)."""

    rounds: int = 10
    server_learning_rate: float = 0.1
    beta_1: float = 0.0
    tau: float = 0.001
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        refuse_outside(self, server_learning_rate=ABOVE_0, beta_1=BELOW_1, tau=ABOVE_0)

    @property
    def adaption(self) -> Adaption:
        return Adaption(self.server_learning_rate, self.beta_1, self.tau, lambda v, d2: v + d2)

    def init(self, model: Tree) -> Adapted:
        return self.adaption.start(model)

    def select(self, state: Adapted, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Adapted) -> Mapping[str, Tree]:
        return {"model": state.model}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        return train_marked(received["model"], site)

    def update(self, state: Adapted, total: Update) -> Adapted:
        return self.adaption.step(state, total)

    def model(self, state: Adapted) -> Tree:
        return state.model

    def finished(self, state: Adapted) -> bool:
        return state.round_number >= self.rounds


EXAMPLE = FedAdagrad(rounds=3)
