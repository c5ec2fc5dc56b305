"""Mean and standard deviation of every column over all sites, in two passes.

Two rounds, because the one-pass formula Σx² − (Σx)²/n loses every digit where the mean is large against the spread: the first adds up counts
and sums, the second sums and squares of the distances from that first mean m. Chan, Golub, LeVeque 1983, "Algorithms for Computing the
Sample Variance", equation 1.7: with d = x − m, mean = m + Σd/n and variance = (Σd² − (Σd)²/n) / (n − 1), for whichever sites answer the
second pass; where they are those of the first, Σd is rounding and corrects it. Missing values are left out.

Leaves the site: ``count`` = number of values per column; ``sum`` = per column their sum in round 1, in round 2 that of their distances from
the first mean; ``squares`` = in round 2 that of the squared distances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import numpy as np

from aimer2.core import tree
from aimer2.core.protocols import Local
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True)
class Gathered:
    """The state: per column ``count``, ``mean`` and, after round 2, ``deviation`` (n − 1), float64 of shape ``(columns,)``."""

    model: Tree
    round_number: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Count, mean and standard deviation per column, exact to rounding."""

    rounds: int = 2
    version: ClassVar[int] = 2

    def init(self, model: Tree) -> Gathered:
        return Gathered(model)

    def select(self, state: Gathered, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Gathered) -> Mapping[str, Tree]:
        return {"moments": state.model}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        rows, _ = site.data.batch(np.arange(len(site.data)))
        features = np.asarray(rows, np.float64)
        there = ~np.isnan(features)
        count = there.sum(axis=0).astype(np.float64)
        if site.round_number == 1:
            return Update({"count": {"columns": count}, "sum": {"columns": np.where(there, features, 0.0).sum(axis=0)}})
        distance = np.where(there, features - received["moments"]["mean"], 0.0)
        summed, squares = distance.sum(axis=0), (distance**2).sum(axis=0)
        return Update({"count": {"columns": count}, "sum": {"columns": summed}, "squares": {"columns": squares}})

    def update(self, state: Gathered, total: Update) -> Gathered:
        tree.check_alike({"columns": state.model["mean"]}, *total.sums.values())
        count, summed = (tree.load(total.sums[name]["columns"]) for name in ("count", "sum"))
        shift = summed / np.maximum(count, 1)
        if state.round_number == 0:
            gathered = {"count": count, "mean": shift, "deviation": np.zeros_like(shift)}
        else:
            spread = np.maximum(tree.load(total.sums["squares"]["columns"]) - summed * shift, 0.0)
            gathered = {"count": count, "mean": tree.load(state.model["mean"]) + shift, "deviation": np.sqrt(spread / np.maximum(count - 1, 1))}
        return replace(state, model=gathered, round_number=state.round_number + 1)

    def model(self, state: Gathered) -> Tree:
        return state.model

    def finished(self, state: Gathered) -> bool:
        return state.round_number >= self.rounds


EXAMPLE = Moments()
