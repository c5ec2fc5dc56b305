"""Frozen backbone: transfer learning in which only some layers train and travel.

Yosinski, Clune, Bengio, Lipson 2014, "How transferable are features in deep neural networks?", section 2 (frozen features), federated by FedAvg of
the layers that are not frozen: w ← w + Σ n_k (w_k − w) / Σ n_k for those, all others as the study's initial weights have them, running means too.
With all layers named it is FedAvg.

Leaves the site: ``difference`` = n · (w_local − w_received), one array per parameter of the layers that train; ``weight`` = n, the number of
training rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from aimer2.algorithms.parts import Parted, averaged, difference, joined, last_layer, leaves_called, part, sent, whole
from aimer2.algorithms.personal import fit
from aimer2.core.protocols import Local
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenBackbone:
    """FedAvg of a part of the model; ``trained`` names its layers, separated by commas (none: the layer whose name is last)."""

    rounds: int = 10
    trained: str = ""
    version: ClassVar[int] = 2

    def init(self, model: Tree) -> Parted:
        return part(model, leaves_called(model, self.trained, "trained") or last_layer(model))

    def select(self, state: Parted, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Parted) -> Mapping[str, Tree]:
        return sent(state)

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        site.learner.load(whole(received))
        return difference(received, fit(site, trainable=received["model"].keys()), site)

    def update(self, state: Parted, total: Update) -> Parted:
        return averaged(state, total)

    def model(self, state: Parted) -> Tree:
        return joined(state)

    def finished(self, state: Parted) -> bool:
        return state.round_number >= self.rounds


EXAMPLE = FrozenBackbone(rounds=3)
