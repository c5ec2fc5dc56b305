"""FedRep: each hospital fits its head to the common representation first, then the representation.

Collins, Hassani, Mokhtari, Shakkottai 2021, "Exploiting Shared Representations for Personalized Federated Learning", Algorithm 1: with the
received representation φ site i takes τ steps on its own head, h_i ← h_i − α∇_h f_i(h_i, φ), then steps on φ under that head; the φ_i are averaged
(here by rows). The first head is that of the untrained model. Without head steps it is a frozen head under a trained base.

Leaves the site: ``difference`` = n · (w_local − w_received), one array per parameter of the representation; ``weight`` = n, the number of
training rows; ``kept_metrics`` = at the end, the evaluation sums of the model that the site keeps, on its held-out patients; ``local_metrics``
= at the end, those of the model that it has trained alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from aimer2.algorithms.fedper import with_own_head
from aimer2.algorithms.parts import Parted, averaged, difference, head_of, joined, part, sent, whole
from aimer2.algorithms.personal import SHARE, fit, keep, kept
from aimer2.core.protocols import Local
from aimer2.core.ranges import AT_LEAST_0, refuse_outside
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FedRep:
    """FedPer in two strides: ``head_steps`` is τ, the study's own steps are those on the representation; ``head`` as under FedPer."""

    rounds: int = 10
    head: str = ""
    head_steps: int = 10
    validation: float = 0.2
    version: ClassVar[int] = 2

    def __post_init__(self) -> None:
        refuse_outside(self, head_steps=AT_LEAST_0, validation=SHARE)

    def init(self, model: Tree) -> Parted:
        return part(model, model.keys() - head_of(model, self.head))

    def select(self, state: Parted, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Parted) -> Mapping[str, Tree]:
        return sent(state)

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        site.learner.load(whole(received, kept(site)))
        fit(site, steps=self.head_steps, trainable=received["base"].keys())
        trained = fit(site, trainable=received["model"].keys())
        keep(site, {name: trained[name] for name in received["base"]})
        return difference(received, trained, site)

    def personal(self, received: Mapping[str, Tree], site: Local) -> Tree:
        return with_own_head(received, site, self.head_steps)

    def update(self, state: Parted, total: Update) -> Parted:
        return averaged(state, total)

    def model(self, state: Parted) -> Tree:
        return joined(state)

    def finished(self, state: Parted) -> bool:
        return state.round_number >= self.rounds


EXAMPLE = FedRep(rounds=3, head_steps=2)
