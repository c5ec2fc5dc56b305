"""Local fine-tuning: FedAvg, and at the end a few steps more at each hospital.

Wang, Mathews, Kiddon, Eichner, Beaufays, Ramage 2019, "Federated Evaluation of On-device Personalization", section 3: v_k is the last common model
after k steps on the site's own rows. With no step the personal model is FedAvg's.

Leaves the site: ``difference`` = n · (w_local − w_received), one array per parameter; ``weight`` = n, the number of training rows;
``kept_metrics`` = at the end, the evaluation sums of the model that the site keeps, on its held-out patients; ``local_metrics`` = at the end,
those of the model that it has trained alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from aimer2.algorithms.fedavg import Averaged, FedAvg, train
from aimer2.algorithms.personal import SHARE, fit
from aimer2.core.protocols import Local
from aimer2.core.ranges import AT_LEAST_0, refuse_outside
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFineTuning:
    """FedAvg; ``fine_tuning_steps`` is how many steps each site takes on its own at the end."""

    rounds: int = 10
    fine_tuning_steps: int = 20
    validation: float = 0.2
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        refuse_outside(self, fine_tuning_steps=AT_LEAST_0, validation=SHARE)

    def init(self, model: Tree) -> Averaged:
        return Averaged(model)

    def select(self, state: Averaged, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Averaged) -> Mapping[str, Tree]:
        return {"model": state.model}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        return train(received["model"], site)

    def personal(self, received: Mapping[str, Tree], site: Local) -> Tree:
        site.learner.load(received["model"])
        return fit(site, steps=self.fine_tuning_steps)

    def update(self, state: Averaged, total: Update) -> Averaged:
        return FedAvg(rounds=self.rounds).update(state, total)

    def model(self, state: Averaged) -> Tree:
        return state.model

    def finished(self, state: Averaged) -> bool:
        return state.round_number >= self.rounds


EXAMPLE = LocalFineTuning(rounds=3, fine_tuning_steps=5)
