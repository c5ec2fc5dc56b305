"""FedSGD: one step per round along the gradient over all patients, as if they lay in one place.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas 2017, section 2: FedAvg with one local step over all rows at once (C = 1, E = 1, B = ∞):
w ← w − η_l·Σ n_k g_k / Σ n_k. The study's learning rate is η_l, its schedule included; its local steps and batch size are not used. With plain
gradient descent (``sgd``) every round is a step of gradient descent on the pooled rows, exactly; it is the slow reference for the other methods.

Leaves the site: ``difference`` = n · (w_local − w_received), which is −η_l · n · g, one array per parameter; ``weight`` = n, the number of
training rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

from aimer2.algorithms.fedavg import Averaged, FedAvg, train
from aimer2.core.protocols import Local
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FedSGD:
    """Gradient descent on all patients of all sites: many rounds, no drift, nothing to choose."""

    rounds: int = 10
    version: ClassVar[int] = 1

    def init(self, model: Tree) -> Averaged:
        return Averaged(model)

    def select(self, state: Averaged, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Averaged) -> Mapping[str, Tree]:
        return {"model": state.model}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        return train(received["model"], replace(site, steps=1, batch_size=None))

    def update(self, state: Averaged, total: Update) -> Averaged:
        return FedAvg(rounds=self.rounds).update(state, total)

    def model(self, state: Averaged) -> Tree:
        return state.model

    def finished(self, state: Averaged) -> bool:
        return state.round_number >= self.rounds


EXAMPLE = FedSGD(rounds=3)
