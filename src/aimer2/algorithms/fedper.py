"""FedPer: a common base, and a head of each hospital's own.

Arivazhagan, Aggarwal, Singh, Choudhary 2019, "Federated Learning with Personalization Layers", Algorithms 1 and 2: each site trains base and head
together; the base is averaged by rows, the head stays. The first head is that of the untrained model. With one site it is FedAvg.

Leaves the site: ``difference`` = n · (w_local − w_received), one array per parameter of the base; ``weight`` = n, the number of training rows;
``kept_metrics`` = at the end, the evaluation sums of the model that the site keeps, on its held-out patients; ``local_metrics`` = at the end,
those of the model that it has trained alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from aimer2.algorithms.parts import Parted, averaged, difference, head_of, joined, part, sent, whole
from aimer2.algorithms.personal import SHARE, fit, keep, kept, last_kept
from aimer2.core.protocols import Local
from aimer2.core.ranges import refuse_outside
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FedPer:
    """FedAvg of all but the head; ``head`` names its layers, separated by commas (none: the layer whose name is last)."""

    rounds: int = 10
    head: str = ""
    validation: float = 0.2
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        refuse_outside(self, validation=SHARE)

    def init(self, model: Tree) -> Parted:
        return part(model, model.keys() - head_of(model, self.head))

    def select(self, state: Parted, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Parted) -> Mapping[str, Tree]:
        return sent(state)

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        site.learner.load(whole(received, kept(site)))
        trained = fit(site)
        keep(site, {name: trained[name] for name in received["base"]})
        return difference(received, trained, site)

    def personal(self, received: Mapping[str, Tree], site: Local) -> Tree:
        return with_own_head(received, site, site.steps)

    def update(self, state: Parted, total: Update) -> Parted:
        return averaged(state, total)

    def model(self, state: Parted) -> Tree:
        return joined(state)

    def finished(self, state: Parted) -> bool:
        return state.round_number >= self.rounds


def with_own_head(received: Mapping[str, Tree], site: Local, steps: int) -> Tree:
    """The last base under the site's head; a site that has none yet trains one."""
    own = last_kept(site)
    if own is not None:
        return whole(received, own)
    site.learner.load(whole(received))
    return fit(site, steps=steps, trainable=received["base"].keys())


EXAMPLE = FedPer(rounds=3)
