"""FedDyn: a pull towards the common model, corrected by what each site has learnt before, so that all sites rest at the common optimum.

Acar, Zhao, Matas, Mattina, Whatmough, Saligrama 2021, "Federated Learning Based on Dynamic Regularization", Algorithm 1: site k minimises
F_k(v) − ⟨λ_k, v⟩ + (α/2)·‖v − w‖², so its gradient has −λ_k + α·(v − w) added; then λ_k ← λ_k − α·(w_k − w). The coordinator:
h ← h − α·Σ (w_k − w)/m, w ← mean(w_k) − h/α, m the number of all sites of the study. h is the mean of all λ_k.

Means are weighted by rows, so m becomes the rows of all sites. These are counted, not configured: a site adds its rows in its first round. The
first round is FedProx with μ = α and the server learning rate 2.

Leaves the site: ``difference`` = n · (w_local − w_received), one array per parameter; ``weight`` = n, the number of training rows;
``seen`` = n in the site's first round, then 0 (or by how much n has grown); ``buffers`` = n for an array of running means, else 0, one number per
parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from aimer2.algorithms.fedavg import mark_buffers, mean_difference, positive, train, weights_of
from aimer2.algorithms.remembered import recall, remember, zeros
from aimer2.core import tree
from aimer2.core.protocols import Local
from aimer2.core.ranges import ABOVE_0, refuse_outside
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True)
class Dynamic:
    """The state: the model, h, and the rows of the sites that are in h."""

    model: Tree
    lean: Tree
    rows: float = 0.0
    round_number: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FedDyn:
    """FedProx whose rest is the optimum of all patients; ``alpha`` is α (0.001 to 1 are usual; with few local steps a larger one is steadier)."""

    rounds: int = 10
    alpha: float = 0.1
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        refuse_outside(self, alpha=ABOVE_0)

    def init(self, model: Tree) -> Dynamic:
        return Dynamic(model, zeros(model))

    def select(self, state: Dynamic, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Dynamic) -> Mapping[str, Tree]:
        return {"model": state.model}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        """The site keeps n·λ_k, not λ_k: the sum of all that it has sent, whatever n was, so that h is always the mean of all λ_k."""
        model, before, rows = received["model"], recall(site, received["model"]), len(site.data)
        anchor = site.learner.native(model)
        lean = site.learner.native(tree.map(lambda kept: kept / rows, before.leaves))

        def pull(parameters: Tree, gradients: Tree) -> Tree:
            return {name: gradient - lean[name] + self.alpha * (parameters[name] - anchor[name]) for name, gradient in gradients.items()}

        sent = mark_buffers(train(model, site, pull), site)
        after = tree.map(lambda kept, d: kept - self.alpha * d, before.leaves, sent.sums["difference"])
        return Update({**sent.sums, "seen": remember(site, before, after)})

    def update(self, state: Dynamic, total: Update) -> Dynamic:
        rows = positive(total, "seen", "rows", state.rows)
        kept, share = state.rows / rows, self.alpha / rows
        lean = tree.map(lambda h, d: (kept * h - share * d).astype(h.dtype, copy=False), state.lean, total.sums["difference"])
        weights = set(weights_of(total, state.model))
        lean = {name: leaf if name in weights else state.lean[name] for name, leaf in lean.items()}
        model = tree.map(lambda w, d, h: (w + d - h / self.alpha).astype(w.dtype, copy=False), state.model, mean_difference(total), lean)
        return Dynamic(model, lean, rows, state.round_number + 1)

    def model(self, state: Dynamic) -> Tree:
        return state.model

    def finished(self, state: Dynamic) -> bool:
        return state.round_number >= self.rounds


EXAMPLE = FedDyn(rounds=3, alpha=0.5)
