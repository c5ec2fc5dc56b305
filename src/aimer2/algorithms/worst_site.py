"""Worst site: the model for the hospital where it does worst (agnostic federated learning, group DRO with hospitals as groups).

Mohri, Sivek, Suresh 2019, "Agnostic Federated Learning", equation 4: min over w of the max over mixtures q of Σ q_k F_k(w), F_k the mean loss of
site k. The mixture is moved by the exponentiated gradient of Sagawa, Koh, Hashimoto, Liang 2020, "Distributionally Robust Neural Networks",
Algorithm 1: q_k ← q_k·exp(η_q·F_k(w)) / Σ. Here it starts at the shares of rows, and each site keeps its own log q_k, so that the coordinator needs
sums alone: w ← w + Σ u_k (w_k − w) / Σ u_k with u_k = n_k·exp(Σ_t η_q·F_k(w_t) − c), where c, the same at all sites, keeps the numbers small. A site
that misses a round gains nothing in it. With η_q = 0 it is FedAvg.

For η_q > 0 a site's share depends on its own losses, so that sites are, on purpose, not the same as their rows pooled.

Leaves the site: ``difference`` = u · (w_local − w_received), one array per parameter; ``weight`` = n, the number of training rows, and u.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log
from typing import Any, ClassVar, final

import numpy as np

from aimer2.algorithms.fedavg import positive, train
from aimer2.algorithms.personal import keep, kept
from aimer2.algorithms.qfedavg import mean_loss
from aimer2.core import tree
from aimer2.core.errors import BadUpdate
from aimer2.core.protocols import Local
from aimer2.core.ranges import AT_LEAST_0, refuse_outside
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update

FARTHEST = 60.0
"""How far log q_k may be ahead of the common level: with e^60 the difference is still a number in single precision."""


@final
@dataclass(frozen=True, slots=True)
class Mixed:
    """The state: the model, and c."""

    model: Tree
    level: Tree = field(default_factory=lambda: {"log": np.zeros(1)})
    round_number: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WorstSite:
    """FedAvg whose weights follow the losses; ``mixture_rate`` is η_q (0 none, 0.01 to 1 are usual)."""

    rounds: int = 10
    mixture_rate: float = 0.1
    words: ClassVar[tuple[str, ...]] = ("share",)
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        refuse_outside(self, mixture_rate=AT_LEAST_0)

    def init(self, model: Tree) -> Mixed:
        return Mixed(model)

    def select(self, state: Mixed, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Mixed) -> Mapping[str, Tree]:
        return {"model": state.model, "level": state.level}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        rows, before = len(site.data), kept(site)
        gained = self.mixture_rate * mean_loss(received["model"], site)
        own = gained + (0.0 if before is None else tree.scalar(before, "log"))
        keep(site, {"log": np.array([own])})
        ahead = own - tree.scalar(received["level"], "log")
        if ahead > FARTHEST:
            remedy = "Lower `method.parameters.mixture_rate`, or scale the target: the rate times the loss is what a site gains in a round."
            raise BadUpdate("The loss is too large for this mixture_rate: one round would give the whole mixture to one site.", remedy=remedy)
        share = exp(ahead)
        sent = train(received["model"], site)
        difference: dict[str, Any] = {name: leaf * leaf.dtype.type(share) for name, leaf in sent.sums["difference"].items()}
        return Update({"difference": difference, "weight": {**sent.sums["weight"], "share": np.array([rows * share])}})

    def update(self, state: Mixed, total: Update) -> Mixed:
        rows, share = positive(total, "weight", "rows"), positive(total, "weight", "share")
        model = tree.map(lambda w, d: (w + d / d.dtype.type(share)).astype(w.dtype, copy=False), state.model, total.sums["difference"])
        level = tree.scalar(state.level, "log") + log(share / rows)
        return Mixed(model, {"log": np.array([level])}, state.round_number + 1)

    def model(self, state: Mixed) -> Tree:
        return state.model

    def finished(self, state: Mixed) -> bool:
        return state.round_number >= self.rounds


EXAMPLE = WorstSite(rounds=3, mixture_rate=0.5)
