"""FedNova: sites that take different numbers of steps pull in proportion to their patients, not to their steps.

Wang, Liu, Liang, Joshi, Poor 2020, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization", equations 9 to 11:
with site i's way w_i − w = −η_l·G_i·a_i, the normalised way d_i = (w_i − w)/‖a_i‖₁; w ← w + η·τ_eff·Σ p_i d_i with p_i = n_i/Σn and
τ_eff = Σ p_i ‖a_i‖₁. ‖a_i‖₁ is K for plain gradient descent, (K − ρ(1 − ρᴷ)/(1 − ρ))/(1 − ρ) with momentum ρ, and
(1 − (1 − η_l·μ)ᴷ)/(η_l·μ) with FedProx's term μ. (The authors' code takes τ_eff = Σ p_i K_i with that term.) With equal steps it is FedAvg, or
FedProx with μ. It removes the bias of unequal steps, not the drift of many: that is SCAFFOLD's and FedDyn's.

Momentum and proximal term are the method's own, so that what is normalised is what was done: the study's optimiser is ``sgd``, its momentum 0.

Leaves the site: ``difference`` = n · (w_local − w_received) / ‖a‖₁, one array per parameter; ``weight`` = n, the number of training rows;
``steps`` = n · ‖a‖₁, one number per parameter. For an array of running means ‖a‖₁ is 1, so that these are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from aimer2.algorithms.fedavg import Averaged, mean_difference, positive, train
from aimer2.algorithms.remembered import zeros
from aimer2.core import tree
from aimer2.core.protocols import Correction, Local
from aimer2.core.ranges import ABOVE_0, AT_LEAST_0, BELOW_1, refuse_outside
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FedNova:
    """FedAvg of ways divided by their steps; ``momentum`` is the sites' ρ, ``mu`` the strength of FedProx's pull, both part of the norm."""

    rounds: int = 10
    momentum: float = 0.0
    mu: float = 0.0
    server_learning_rate: float = 1.0
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        refuse_outside(self, momentum=BELOW_1, mu=AT_LEAST_0, server_learning_rate=ABOVE_0)

    def init(self, model: Tree) -> Averaged:
        return Averaged(model)

    def select(self, state: Averaged, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Averaged) -> Mapping[str, Tree]:
        return {"model": state.model}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        model, rows = received["model"], len(site.data)
        rate = learning_rate(model, site) if self.mu else 1.0
        norm = steps_norm(site.steps, self.momentum, self.mu, rate)
        sums = train(model, site, self._steering(model, site)).sums
        norms = {name: 1.0 if name in site.learner.buffers else norm for name in model}
        difference = {name: leaf / norms[name] for name, leaf in sums["difference"].items()}
        steps = {name: np.array([rows * value], np.float64) for name, value in norms.items()}
        return Update({"difference": difference, "weight": sums["weight"], "steps": steps})

    def _steering(self, model: Tree, site: Local) -> Correction | None:
        """Each step's direction: v ← ρ·v + g + μ·(w − w_received)."""
        if not (self.momentum or self.mu):
            return None
        anchor, velocity = site.learner.native(model), dict[str, Any]()

        def steer(parameters: Tree, gradients: Tree) -> Tree:
            for name, gradient in gradients.items():
                pulled = gradient + self.mu * (parameters[name] - anchor[name])
                velocity[name] = self.momentum * velocity[name] + pulled if name in velocity else pulled
            return {name: velocity[name] for name in gradients}

        return steer

    def update(self, state: Averaged, total: Update) -> Averaged:
        rows, mean = positive(total, "weight", "rows"), mean_difference(total)
        tree.check_alike(state.model, mean)
        model: dict[str, Any] = {}
        for name, leaf in state.model.items():
            step = self.server_learning_rate * tree.scalar(total.sums["steps"], name) / rows
            model |= tree.map(_towards(step), {name: leaf}, {name: mean[name]})
        return Averaged(model, state.round_number + 1)

    def model(self, state: Averaged) -> Tree:
        return state.model

    def finished(self, state: Averaged) -> bool:
        return state.round_number >= self.rounds


def _towards(step: float) -> Any:
    return lambda w, d: (w + step * d).astype(w.dtype, copy=False)


def steps_norm(steps: int, momentum: float, mu: float, rate: float) -> float:
    """‖a‖₁: how far, in units of the learning rate, so many steps go along a gradient that is 1 everywhere."""
    way = velocity = 0.0
    for _ in range(steps):
        velocity = momentum * velocity + 1 - mu * rate * way
        way += velocity
    return way


def learning_rate(model: Tree, site: Local) -> float:
    """The learner's own rate in this round, measured: how far one step along ones leads from a model of zeros, whatever the weight decay."""

    def ones(parameters: Tree, gradients: Tree) -> Tree:
        return {name: parameters[name] * 0 + 1 for name in gradients}

    site.learner.load(zeros(model))
    site.learner.fit(site.data, steps=1, batch_size=2, round_number=site.round_number, rng=np.random.default_rng(0), correction=ones)
    moved = site.learner.parameters()
    return max(float(-leaf.min()) for name, leaf in moved.items() if name not in site.learner.buffers and leaf.size)


EXAMPLE = FedNova(rounds=3, momentum=0.5, mu=0.1)
