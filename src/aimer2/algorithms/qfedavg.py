"""q-FedAvg: sites where the model does badly count more, so that the outcome is more even between sites.

Li, Sanjabi, Beirami, Smith 2020, "Fair Resource Allocation in Federated Learning", Algorithm 2, for the objective Σ p_k F_k^(q+1)/(q + 1):
Δ_k = F_k^q · L·(w − w_k), h_k = q·F_k^(q−1)·‖L·(w − w_k)‖² + L·F_k^q, w ← w − Σ n_k Δ_k / Σ n_k h_k, where F_k is site k's mean loss on its training
rows at the received model. (The paper draws sites with probability p_k; here all take part, weighted by rows.) With q = 0 it is FedAvg, whatever
L. Both sums are divided by L, which changes nothing.

For q > 0 a site's share depends on its own loss, so that sites are, on purpose, not the same as their rows pooled.

Leaves the site: ``difference`` = n · F^q · (w_local − w_received), one array per parameter; ``weight`` = n, the number of training rows, and
n · h/L; ``buffers`` = n for an array of running means (averaged, without F^q), else 0, one number per parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from aimer2.algorithms.fedavg import Averaged, mark_buffers, positive, train, weights_of
from aimer2.core import tree
from aimer2.core.protocols import Local
from aimer2.core.ranges import ABOVE_0, AT_LEAST_0, refuse_outside
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update

LEAST_LOSS = 1e-10
"""A loss of 0 has no power below 1."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class QFedAvg:
    """FedAvg for even losses: ``q`` says how much fairness counts (0 none, 0.1 to 5 are usual), ``lipschitz`` is L (1/learning rate is the
    paper's choice; larger is more careful)."""

    rounds: int = 10
    q: float = 1.0
    lipschitz: float = 10.0
    words: ClassVar[tuple[str, ...]] = ("norm",)
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        refuse_outside(self, q=AT_LEAST_0, lipschitz=ABOVE_0)

    def init(self, model: Tree) -> Averaged:
        return Averaged(model)

    def select(self, state: Averaged, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Averaged) -> Mapping[str, Tree]:
        return {"model": state.model}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        rows, buffers = len(site.data), site.learner.buffers
        loss = mean_loss(received["model"], site)
        sums = mark_buffers(train(received["model"], site), site).sums
        ways = {name: leaf for name, leaf in sums["difference"].items() if name not in buffers}
        squared = sum(float(np.vdot(leaf, leaf)) for leaf in ways.values()) / rows**2
        power = loss**self.q
        norm = rows * (self.q * loss ** (self.q - 1) * self.lipschitz * squared + power)
        difference = {**sums["difference"], **{name: leaf * power for name, leaf in ways.items()}}
        return Update({**sums, "difference": difference, "weight": {**sums["weight"], "norm": np.array([norm], np.float64)}})

    def update(self, state: Averaged, total: Update) -> Averaged:
        weights = set(weights_of(total, state.model))
        rows, norm = positive(total, "weight", "rows"), positive(total, "weight", "norm")
        difference = total.sums["difference"]
        tree.check_alike(state.model, difference)
        fair = _moved(state.model, difference, [name for name in state.model if name in weights], norm)
        plain = _moved(state.model, difference, [name for name in state.model if name not in weights], rows)
        return Averaged({**state.model, **fair, **plain}, state.round_number + 1)

    def model(self, state: Averaged) -> Tree:
        return state.model

    def finished(self, state: Averaged) -> bool:
        return state.round_number >= self.rounds


def _moved(model: Tree, difference: Tree, names: Sequence[str], denominator: float) -> Tree:
    if not names:
        return {}
    chosen = ({name: leaves[name] for name in names} for leaves in (model, difference))
    return tree.map(lambda w, d: (w + d / d.dtype.type(denominator)).astype(w.dtype, copy=False), *chosen)


def mean_loss(model: Tree, site: Local) -> float:
    """The model's mean loss over the site's training rows, at least `LEAST_LOSS`."""
    site.learner.load(model)
    measured = site.learner.evaluate(site.data)
    return max(tree.scalar(measured, "loss") / len(site.data), LEAST_LOSS)


EXAMPLE = QFedAvg(rounds=3, q=0.5)
