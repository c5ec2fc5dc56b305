"""LoRA: low-rank adapters train and travel, the model they adapt stays as it was.

Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen 2021, "LoRA: Low-Rank Adaptation of Large Language Models", equation 3: of each adapted
linear layer h = W₀x + (α/r)·B·A·x with W₀ (out, in) fixed, A = ``down`` (r, in) drawn from a normal distribution, B = ``up`` (out, r) zero at the
start. A and B go by FedAvg, each on its own: the mean of products is not the product of means, so with several local steps it is FedAvg of the
factors, not of the weights they stand for. The final model has the adapters added to its weights. With A = I and α = r the first step is that of
a frozen backbone whose linear weights train.

W₀ comes with the study as its initial weights (``model.weights``); sites receive it once. A is drawn by the leaf's name alone, so all studies of a
model start alike.

Leaves the site: ``difference`` = n · (w_local − w_received), two factors per adapted layer and one array per parameter of ``head``; ``weight`` = n,
the number of training rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy as np

from aimer2.algorithms.parts import Parted, averaged, difference, leaves_called, sent
from aimer2.algorithms.personal import fit
from aimer2.core import tree
from aimer2.core.errors import BadStudy, Fault
from aimer2.core.protocols import Learner, Local
from aimer2.core.random import stream
from aimer2.core.ranges import ABOVE_0, AT_LEAST_1, refuse_outside
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """FedAvg of adapters; ``rank`` is r, ``alpha`` α, ``layers`` the adapted linear layers (none: every leaf ``weight`` with two axes that is
    not in the head), ``head`` the layers that train in full."""

    rounds: int = 10
    rank: int = 4
    alpha: float = 8.0
    layers: str = ""
    head: str = ""
    version: ClassVar[int] = 1
    frameworks: ClassVar[tuple[str, ...]] = ("torch",)

    def __post_init__(self) -> None:
        refuse_outside(self, rank=AT_LEAST_1, alpha=ABOVE_0)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def check(self, learner: Learner) -> None:
        """Raises BadModel where a named layer is not linear."""
        self.adapted(learner)

    def head_leaves(self, model: Tree) -> frozenset[str]:
        return leaves_called(model, self.head, "head")

    def weights(self, model: Tree) -> list[str]:
        """The adapted leaves. Raises BadStudy where there are none."""
        asked = leaves_called(model, self.layers, "layers") or model.keys() - self.head_leaves(model)
        found = sorted(name for name in asked if name.rpartition(".")[2] == "weight" and len(model[name].shape) == 2)
        if not found:
            raise BadStudy([Fault("method.parameters.layers", "the model has no linear layer there", "name linear layers, or take frozen_backbone")])
        return found

    def adapted(self, learner: Any) -> Learner:
        """The learner of the adapters, over the model that the learner has loaded."""
        model = learner.parameters()
        made: Learner = learner.adapted(self.weights(model), self.head_leaves(model), rank=self.rank, scale=self.scale)
        return made

    def init(self, model: Tree) -> Parted:
        head = self.head_leaves(model)
        travelling = {name: model[name] for name in sorted(head)}
        for name in self.weights(model):
            (out, width), dtype = model[name].shape, model[name].dtype
            down = stream(0, "lora", name).normal(0, width**-0.5, size=(self.rank, width))
            travelling |= {_factor(name, "down"): down.astype(dtype), _factor(name, "up"): np.zeros((out, self.rank), dtype)}
        return Parted(travelling, {name: leaf for name, leaf in model.items() if name not in head})

    def select(self, state: Parted, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Parted) -> Mapping[str, Tree]:
        return sent(state)

    def whole(self, received: Mapping[str, Tree]) -> Tree:
        """The model with the adapters added to its weights."""
        return self._joined(received["base"], received["model"])

    def _joined(self, base: Tree, travelling: Tree) -> Tree:
        return {name: self._with_adapter(name, leaf, travelling) for name, leaf in base.items()} | _in_full(travelling)

    def _with_adapter(self, name: str, weight: Any, travelling: Tree) -> Any:
        if _factor(name, "up") not in travelling or name.rpartition(".")[2] != "weight":
            return weight
        up, down = (tree.load(travelling[_factor(name, kind)]) for kind in ("up", "down"))
        return tree.load(weight) + weight.dtype.type(self.scale) * (up @ down)

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        travelling = received["model"]
        site.learner.load({**received["base"], **_in_full(travelling)})
        own = replace(site, learner=self.adapted(site.learner))
        own.learner.load(travelling)
        return difference(received, fit(own, trainable=travelling.keys()), site)

    def update(self, state: Parted, total: Update) -> Parted:
        return averaged(state, total)

    def model(self, state: Parted) -> Tree:
        return self._joined(state.base, state.model)

    def finished(self, state: Parted) -> bool:
        return state.round_number >= self.rounds


def _factor(weight: str, kind: str) -> str:
    """``blocks.0.weight`` has ``blocks.0.down`` and ``blocks.0.up``."""
    layer, dot, _ = weight.rpartition(".")
    return f"{layer}{dot}{kind}"


def _in_full(travelling: Tree) -> dict[str, Any]:
    """The leaves that are no factors: those of the head."""
    return {name: leaf for name, leaf in travelling.items() if name.rpartition(".")[2] not in ("down", "up")}


EXAMPLE = Lora(rounds=3, rank=2)
