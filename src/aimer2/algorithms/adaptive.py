"""What FedAdagrad, FedAdam and FedYogi share: Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan 2021, Algorithm 2.

m ← β₁·m + (1 − β₁)·Δ, v ← its method's own line, w ← w + η·m / (√v + τ), elementwise, where Δ is FedAvg's mean difference. As in the paper
v starts at τ² and m at 0, and neither is corrected for that start (Flower corrects FedAdam's; FLamby starts v at 0). Buffers, such as running
means, are averaged as in FedAvg: a step of a size of its own would make a running variance negative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from aimer2.algorithms.fedavg import mark_buffers, mean_difference, train, weights_of
from aimer2.algorithms.remembered import zeros
from aimer2.core import tree
from aimer2.core.protocols import Local
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True)
class Adapted:
    """The state: the model, the mean m of its differences and the mean v of their squares."""

    model: Tree
    momentum: Tree
    square: Tree
    round_number: int = 0


@final
@dataclass(frozen=True, slots=True)
class Adaption:
    """The coordinator's step; ``square`` maps v and Δ² to the new v."""

    server_learning_rate: float
    beta_1: float
    tau: float
    square: Callable[[Any, Any], Any]

    def start(self, model: Tree) -> Adapted:
        return Adapted(model, zeros(model), {name: np.full(leaf.shape, self.tau**2, leaf.dtype) for name, leaf in model.items()})

    def step(self, state: Adapted, total: Update) -> Adapted:
        mean, weights = mean_difference(total), weights_of(total, state.model)

        def moved(function: Callable[..., Any], *trees: Tree) -> dict[str, Any]:
            return tree.map(function, *({name: leaves[name] for name in weights} for leaves in trees))

        def averaged(m: Any, d: Any) -> Any:
            return (self.beta_1 * m + (1 - self.beta_1) * d).astype(m.dtype, copy=False)

        def stepped(w: Any, m: Any, v: Any) -> Any:
            return (w + self.server_learning_rate * m / (np.sqrt(v) + self.tau)).astype(w.dtype, copy=False)

        plain = tree.map(lambda w, d: (w + d).astype(w.dtype, copy=False), state.model, mean)
        momentum = moved(averaged, state.momentum, mean)
        square = moved(lambda v, d: self.square(v, d * d).astype(v.dtype, copy=False), state.square, mean)
        model = {**plain, **moved(stepped, state.model, momentum, square)}
        return Adapted(model, {**state.momentum, **momentum}, {**state.square, **square}, state.round_number + 1)


def train_marked(model: Tree, site: Local) -> Update:
    """The site half: FedAvg's, with its buffers marked."""
    return mark_buffers(train(model, site), site)
