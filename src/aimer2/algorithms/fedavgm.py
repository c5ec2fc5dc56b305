"""FedAvgM: federated averaging with momentum at the coordinator.

Hsu, Qi, Brown 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", section 3.3:
v ← β·v + Δ, w ← w + η·v, where Δ is FedAvg's mean difference. With β = 0 it is FedAvg. Buffers, such as running means, are averaged without
momentum, which would carry a falling variance below zero.

Leaves the site: ``difference`` = n · (w_local − w_received), one array per parameter; ``weight`` = n, the number of training rows;
``buffers`` = n for an array of running means, else 0, one number per parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from aimer2.algorithms.fedavg import mark_buffers, mean_difference, train, weights_of
from aimer2.core import tree
from aimer2.core.protocols import Local
from aimer2.core.ranges import ABOVE_0, BELOW_1, refuse_outside
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True)
class Moving:
    """The state: the model and the velocity it moves with."""

    model: Tree
    velocity: Tree
    round_number: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvgM:
    """FedAvg whose steps gather speed; ``momentum`` is β, ``server_learning_rate`` η."""

    rounds: int = 10
    momentum: float = 0.9
    server_learning_rate: float = 1.0
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        refuse_outside(self, momentum=BELOW_1, server_learning_rate=ABOVE_0)

    def init(self, model: Tree) -> Moving:
        return Moving(model, {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in model.items()})

    def select(self, state: Moving, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Moving) -> Mapping[str, Tree]:
        return {"model": state.model}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        return mark_buffers(train(received["model"], site), site)

    def update(self, state: Moving, total: Update) -> Moving:
        mean, weights = mean_difference(total), set(weights_of(total, state.model))
        velocity = tree.map(lambda v, d: (self.momentum * v + d).astype(v.dtype, copy=False), state.velocity, mean)
        velocity = {name: velocity[name] if name in weights else leaf for name, leaf in mean.items()}
        model = tree.map(lambda w, v: (w + self.server_learning_rate * v).astype(w.dtype, copy=False), state.model, velocity)
        return Moving(model, velocity, state.round_number + 1)

    def model(self, state: Moving) -> Tree:
        return state.model

    def finished(self, state: Moving) -> bool:
        return state.round_number >= self.rounds


EXAMPLE = FedAvgM(rounds=3, momentum=0.5)
