"""Worst group: the model for the group of patients, across hospitals, for whom it does worst (group DRO).

Sagawa, Koh, Hashimoto, Liang 2020, "Distributionally Robust Neural Networks for Group Shifts", Algorithm 1, for the groups of the study's column
``cohort.group`` (sex, age band, scanner): q_g ← q_g·exp(η_q·L_g(w)) / Σ, L_g the mean loss of group g over all sites. Here q starts at the groups'
shares of rows. Each row counts exp(s_g) with s_g = Σ_t η_q·L_g(w_t) − c: a site draws its training rows with chances in proportion, and its
update counts u = Σ exp(s_g) over its rows: w ← w + Σ u_k (w_k − w) / Σ u_k; c, the same for all groups, keeps the mean of exp(s_g) over rows at 1.
Rows whose group is not known count 1. With η_q = 0, or one group, it is FedAvg.

A group with fewer rows at a site than the minimum cell adds nothing to L_g there: of so few nothing is told.

Leaves the site: ``difference`` = u · (w_local − w_received), one array per parameter; ``weight`` = n, the number of training rows, and u;
``groups`` = per group the loss of the received model summed over its training rows, and their number, 0 for a group of fewer rows than the
minimum cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt

from aimer2.algorithms.fedavg import positive, train
from aimer2.core import tree
from aimer2.core.dataset import Samples
from aimer2.core.errors import BadData
from aimer2.core.protocols import Local
from aimer2.core.ranges import AT_LEAST_0, refuse_outside
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update
from aimer2.privacy.disclosure import MINIMUM_CELL

Floats = npt.NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True)
class Grouped:
    """The state: the model, and s per group; of one 0 before the first round has told how many groups there are."""

    model: Tree
    mixture: Tree = field(default_factory=lambda: {"log": np.zeros(1)})
    round_number: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WorstGroup:
    """FedAvg whose rows count by their group's loss; ``mixture_rate`` is η_q (0 none, 0.01 to 1 are usual)."""

    rounds: int = 10
    mixture_rate: float = 0.1
    words: ClassVar[tuple[str, ...]] = ("loss", "share", "rows")
    version: ClassVar[int] = 1
    by_group: ClassVar[bool] = True

    def __post_init__(self) -> None:
        refuse_outside(self, mixture_rate=AT_LEAST_0)

    def init(self, model: Tree) -> Grouped:
        return Grouped(model)

    def select(self, state: Grouped, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Grouped) -> Mapping[str, Tree]:
        return {"model": state.model, "mixture": state.mixture}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        rows, groups = site.data, site.data.groups if isinstance(site.data, Samples) else None
        if not isinstance(rows, Samples) or groups is None:
            raise BadData("The rows say no group that they belong to.")
        told = _losses(received["model"], rows, groups, site)
        counts = np.where(groups.any(axis=1), groups @ np.exp(np.broadcast_to(tree.load(received["mixture"]["log"]), groups.shape[1:])), 1.0)
        own = site
        if np.ptp(counts) > 0:
            drawn = site.rng.choice(len(rows), len(rows), p=counts / counts.sum())
            own = replace(site, data=rows.at(drawn))
        sent, share = train(received["model"], own), float(counts.sum())
        scale = share / len(rows)
        difference: dict[str, Any] = {name: leaf * leaf.dtype.type(scale) for name, leaf in sent.sums["difference"].items()}
        return Update({"difference": difference, "weight": {**sent.sums["weight"], "share": np.array([share])}, "groups": told})

    def update(self, state: Grouped, total: Update) -> Grouped:
        share = positive(total, "weight", "share")
        model = tree.map(lambda w, d: (w + d / d.dtype.type(share)).astype(w.dtype, copy=False), state.model, total.sums["difference"])
        loss, rows = (tree.load(total.sums["groups"][name]) for name in ("loss", "rows"))
        log = tree.load(state.mixture["log"]) + self.mixture_rate * loss / np.maximum(rows, 1)
        level = np.log((rows * np.exp(log - log.max())).sum() / rows.sum()) + log.max() if rows.any() else 0.0
        return Grouped(model, {"log": log - level}, state.round_number + 1)

    def model(self, state: Grouped) -> Tree:
        return state.model

    def finished(self, state: Grouped) -> bool:
        return state.round_number >= self.rounds


def _losses(model: Tree, data: Samples, groups: Floats, site: Local) -> dict[str, Floats]:
    """Per group the summed loss and the rows, where there are enough of them."""
    site.learner.load(model)
    rows = groups.sum(axis=0)
    rows[rows < MINIMUM_CELL] = 0.0
    loss = np.zeros(len(rows))
    for number in np.flatnonzero(rows):
        part = data.at(np.flatnonzero(groups[:, number]))
        loss[number] = tree.scalar(site.learner.evaluate(part), "loss")
    return {"loss": loss, "rows": rows}


EXAMPLE = WorstGroup(rounds=3, mixture_rate=0.5)
