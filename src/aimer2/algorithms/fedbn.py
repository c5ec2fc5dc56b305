"""FedBN: normalisation layers stay at their hospital.

Li, Jiang, Zhang, Kamp, Dou 2021, "FedBN: Federated Learning on Non-IID Features via Local Batch Normalization", Algorithm 1: FedAvg over all
leaves but those of the normalisation layers (scale, shift, running means and variances), which each site trains and keeps. It fits where the
same findings look different between hospitals: other scanners, stains or assays. Without a normalisation layer it is FedAvg.

Leaves the site: ``difference`` = n · (w_local − w_received), one array per parameter outside the normalisation layers; ``weight`` = n, the
number of training rows; ``kept_metrics`` = at the end, the evaluation sums of the model that the site keeps, on its held-out patients;
``local_metrics`` = at the end, those of the model that it has trained alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from aimer2.algorithms.parts import Parted, averaged, difference, joined, layer_of, leaves_called, part, sent, whole
from aimer2.algorithms.personal import SHARE, fit, keep, kept, last_kept
from aimer2.core.errors import BadStudy, Fault
from aimer2.core.protocols import Learner, Local
from aimer2.core.ranges import refuse_outside
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FedBN:
    """FedAvg with normalisation of each site's own; ``layers`` names the normalisation layers (none: those with running means)."""

    rounds: int = 10
    layers: str = ""
    validation: float = 0.2
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        refuse_outside(self, validation=SHARE)

    def check(self, learner: Learner) -> None:
        """Raises BadStudy where it would be FedAvg: the model has no such layer."""
        if not self.local_leaves(learner.parameters()):
            problem = "the model has no layer with running means, so nothing would stay at the sites"
            raise BadStudy([Fault("method.parameters.layers", problem, "name its normalisation layers, or take fedavg")])

    def local_leaves(self, model: Tree) -> frozenset[str]:
        normalising = {layer_of(name) for name in model if name.endswith(("running_mean", "moving_mean"))}
        return leaves_called(model, self.layers, "layers") or frozenset(name for name in model if layer_of(name) in normalising)

    def init(self, model: Tree) -> Parted:
        return part(model, model.keys() - self.local_leaves(model))

    def select(self, state: Parted, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Parted) -> Mapping[str, Tree]:
        return sent(state)

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        site.learner.load(whole(received, kept(site)))
        trained = fit(site)
        keep(site, {name: trained[name] for name in received.get("base", {})})
        return difference(received, trained, site)

    def personal(self, received: Mapping[str, Tree], site: Local) -> Tree:
        return whole(received, last_kept(site))

    def update(self, state: Parted, total: Update) -> Parted:
        return averaged(state, total)

    def model(self, state: Parted) -> Tree:
        return joined(state)

    def finished(self, state: Parted) -> bool:
        return state.round_number >= self.rounds


EXAMPLE = FedBN(rounds=3)
