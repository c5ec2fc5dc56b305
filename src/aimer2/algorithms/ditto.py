"""Ditto: FedAvg, and beside it a model of each hospital's own that is held near the common one.

Li, Hu, Beirami, Smith 2021, "Ditto: Fair and Robust Federated Learning Through Personalization", Algorithm 1: the common model w goes by FedAvg;
each site keeps v_k and takes steps v_k ← v_k − η(∇F_k(v_k) + λ(v_k − w)), w as it was received. The first v_k is the model that the site receives
first. With λ = 0 each v_k is what its site makes alone; the common model is FedAvg's, whatever λ.

Leaves the site: ``difference`` = n · (w_local − w_received), one array per parameter; ``weight`` = n, the number of training rows;
``kept_metrics`` = at the end, the evaluation sums of the model that the site keeps, on its held-out patients; ``local_metrics`` = at the end,
those of the model that it has trained alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from aimer2.algorithms.fedavg import Averaged, FedAvg, train
from aimer2.algorithms.personal import SHARE, fit, keep, kept, last_kept
from aimer2.core.protocols import Local
from aimer2.core.ranges import AT_LEAST_0, refuse_outside
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ditto:
    """FedAvg with a second model per site; ``lambda_`` is λ, the strength of its pull to the common one (0.1 to 2 are usual)."""

    rounds: int = 10
    lambda_: float = 0.5
    validation: float = 0.2
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        refuse_outside(self, lambda_=AT_LEAST_0, validation=SHARE)

    def init(self, model: Tree) -> Averaged:
        return Averaged(model)

    def select(self, state: Averaged, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Averaged) -> Mapping[str, Tree]:
        return {"model": state.model}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        update = train(received["model"], site)
        anchor = site.learner.native(received["model"])

        def pull(parameters: Tree, gradients: Tree) -> Tree:
            return {name: gradient + self.lambda_ * (parameters[name] - anchor[name]) for name, gradient in gradients.items()}

        site.learner.load(kept(site) or received["model"])
        keep(site, fit(site, correction=pull))
        return update

    def personal(self, received: Mapping[str, Tree], site: Local) -> Tree:
        return last_kept(site) or received["model"]

    def update(self, state: Averaged, total: Update) -> Averaged:
        return FedAvg(rounds=self.rounds).update(state, total)

    def model(self, state: Averaged) -> Tree:
        return state.model

    def finished(self, state: Averaged) -> bool:
        return state.round_number >= self.rounds


EXAMPLE = Ditto(rounds=3, lambda_=0.5)
