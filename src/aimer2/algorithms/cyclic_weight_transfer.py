"""Cyclic weight transfer: the model goes from hospital to hospital, one after the other.

Chang, Balachandar, Lam, Yi, Brown, Beers, Rosen, Rubin, Kalpathy-Cramer 2018, "Distributed deep learning networks among institutions for medical
imaging", section "Cyclical weight transfer": each site trains the model it gets and hands it on, w ← w_k; after the last site comes the first.
A round is one site's turn, in the order of the sites' names. With one site it is FedAvg.

It hands single models on: coordinator and next site see what one hospital has made of the model. So it is no sum, needs the weighted mean as
aggregator, and is refused under secure aggregation.

Leaves the site: ``difference`` = n · (w_local − w_received), one array per parameter; ``weight`` = n, the number of training rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from aimer2.algorithms.fedavg import Averaged, FedAvg, train
from aimer2.core.protocols import Local
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CyclicWeightTransfer:
    """One site trains per round; as many rounds as sites are one cycle."""

    rounds: int = 10
    version: ClassVar[int] = 1
    additive: ClassVar[bool] = False

    def init(self, model: Tree) -> Averaged:
        return Averaged(model)

    def select(self, state: Averaged, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        """Whose turn it is among the sites that are there."""
        return [sorted(sites)[state.round_number % len(sites)]] if sites else []

    def broadcast(self, state: Averaged) -> Mapping[str, Tree]:
        return {"model": state.model}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        return train(received["model"], site)

    def update(self, state: Averaged, total: Update) -> Averaged:
        return FedAvg(rounds=self.rounds).update(state, total)

    def model(self, state: Averaged) -> Tree:
        return state.model

    def finished(self, state: Averaged) -> bool:
        return state.round_number >= self.rounds


EXAMPLE = CyclicWeightTransfer(rounds=4)
