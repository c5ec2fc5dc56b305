"""Mean and standard deviation of every column over all sites, in two passes.

Two rounds, because the one-pass formula Σx² − (Σx)²/n loses every digit where the mean is large against the spread (Chan, Golub, LeVeque
1983): the first adds up counts and sums, the second the squared distances from the common mean. Missing values are left out.

Leaves the site: ``count`` = number of values per column; ``sum`` = per column their sum in round 1, in round 2 that of their squared
distances from the mean.
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
    version: ClassVar[int] = 1

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
            values = np.where(there, features, 0.0)
        else:
            values = np.where(there, features - received["moments"]["mean"], 0.0) ** 2
        return Update({"count": {"columns": count}, "sum": {"columns": values.sum(axis=0)}})

    def update(self, state: Gathered, total: Update) -> Gathered:
        tree.check_alike({"columns": state.model["mean"]}, total.sums["count"], total.sums["sum"])
        count, summed = tree.load(total.sums["count"]["columns"]), tree.load(total.sums["sum"]["columns"])
        if state.round_number == 0:
            gathered = {"count": count, "mean": summed / np.maximum(count, 1), "deviation": np.zeros_like(summed)}
        else:
            gathered = {**state.model, "deviation": np.sqrt(summed / np.maximum(count - 1, 1))}
        return replace(state, model=gathered, round_number=state.round_number + 1)

    def model(self, state: Gathered) -> Tree:
        return state.model

    def finished(self, state: Gathered) -> bool:
        return state.round_number >= self.rounds


EXAMPLE = Moments()
