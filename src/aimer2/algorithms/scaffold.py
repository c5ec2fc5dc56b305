"""SCAFFOLD: control variates that take the drift out of local training.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh 2020, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", Algorithm 1. Each site
steps along g_i(y) − c_i + c. After K steps its control c_i becomes (option I) its gradient at the received model over all its rows, or
(option II) c_i − c + (x − y_K)/(K·η_l), which is the mean of the K gradients that it has met: taken as that mean here, so that the method need
not know η_l and holds under any optimiser. The coordinator: x ← x + η·mean(y_i − x), c ← c + (|S|/N)·mean(c_i⁺ − c_i).

Means are weighted by rows, so |S|/N is (rows of the sites in the round)/(rows of all sites of the study). The latter are counted, not
configured: a site adds its rows in its first round. Until every site has been there c is the mean over those that have; from then on it is the
paper's. With one site, or with one step over all rows at each, it is FedAvg.

Leaves the site: ``difference`` = n · (w_local − w_received), one array per parameter; ``weight`` = n, the number of training rows;
``control`` = n · c_i⁺ − n · c_i, one array per parameter; ``seen`` = n in the site's first round, then 0 (or by how much n has grown).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from aimer2.algorithms.fedavg import mean_difference, positive, train
from aimer2.algorithms.remembered import recall, remember, zeros
from aimer2.core import tree
from aimer2.core.protocols import Learner, Local
from aimer2.core.ranges import ABOVE_0, Range, refuse_outside
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True)
class Controlled:
    """The state: the model, the mean c of the sites' controls, and the rows of the sites that are in it."""

    model: Tree
    control: Tree
    rows: float = 0.0
    round_number: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Scaffold:
    """FedAvg whose sites correct each gradient by what they know of the others' gradients.

    ``option`` 1 or 2: how a site renews its control. 2 costs nothing; 1 costs one pass over all rows at once, and is steadier with small batches.
    """

    rounds: int = 10
    option: int = 2
    server_learning_rate: float = 1.0
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        refuse_outside(self, option=Range("1 or 2", lambda value: value in (1, 2)), server_learning_rate=ABOVE_0)

    def init(self, model: Tree) -> Controlled:
        return Controlled(model, zeros(model))

    def select(self, state: Controlled, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Controlled) -> Mapping[str, Tree]:
        return {"model": state.model, "control": state.control}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        model, before = received["model"], recall(site, received["model"])
        shift = site.learner.native(tree.map(lambda c, own: c - own, received["control"], before.leaves))
        met = Met(site.learner, model)

        def steer(parameters: Tree, gradients: Tree) -> Tree:
            met.add(gradients)
            return {name: gradient + shift[name] for name, gradient in gradients.items()}

        sums = train(model, site, steer).sums
        after = met.mean(site.steps) if self.option == 2 else whole_gradient(model, site)
        rows = float(len(site.data))
        change = tree.map(lambda new, old: new * rows - old * before.rows, after, before.leaves)
        return Update({**sums, "control": change, "seen": remember(site, before, after)})

    def update(self, state: Controlled, total: Update) -> Controlled:
        eta, rows = self.server_learning_rate, positive(total, "seen", "rows", state.rows)
        model = tree.map(lambda w, d: (w + eta * d).astype(w.dtype, copy=False), state.model, mean_difference(total))
        kept = state.rows / rows
        control = tree.map(lambda c, d: (kept * c + d / rows).astype(c.dtype, copy=False), state.control, total.sums["control"])
        return Controlled(model, control, rows, state.round_number + 1)

    def model(self, state: Controlled) -> Tree:
        return state.model

    def finished(self, state: Controlled) -> bool:
        return state.round_number >= self.rounds


@final
class Met:
    """Adds up gradients in the learner's own kind of array; of buffers there are none, so theirs stay zero."""

    def __init__(self, learner: Learner, model: Tree) -> None:
        self._learner = learner
        self._sum = dict(learner.native(zeros(model)))

    def add(self, gradients: Tree) -> None:
        for name, gradient in gradients.items():
            self._sum[name] = self._sum[name] + gradient

    def mean(self, steps: int) -> Tree:
        """As numpy arrays: by way of the learner, whose own parameters are lost."""
        self._learner.load({name: leaf / steps for name, leaf in self._sum.items()})
        return self._learner.parameters()


def whole_gradient(model: Tree, site: Local) -> Tree:
    """The gradient at the model over all rows of the site; the learner's own parameters are lost."""
    met = Met(site.learner, model)

    def look(parameters: Tree, gradients: Tree) -> Tree:
        met.add(gradients)
        return gradients

    site.learner.load(model)
    site.learner.fit(site.data, steps=1, batch_size=None, round_number=site.round_number, rng=site.rng, correction=look)
    return met.mean(1)


EXAMPLE = Scaffold(rounds=3)
