"""Federated averaging.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data",
Algorithm 1, with the server step of Reddi et al. 2021 (Algorithm 1): w ← w + η · Σ n_k (w_k − w) / Σ n_k.

Leaves the site: ``difference`` = n · (w_local − w_received), one array per parameter; ``weight`` = n, the number of training rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy as np

from aimer2.core import tree
from aimer2.core.errors import BadUpdate
from aimer2.core.protocols import Correction, Local
from aimer2.core.ranges import ABOVE_0, refuse_outside
from aimer2.core.said import say
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update


@final
@dataclass(frozen=True, slots=True)
class Averaged:
    """The state: the model after so many rounds."""

    model: Tree
    round_number: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FedAvg:
    """Every site trains the common model on its own patients; the models are averaged by the number of rows.

    ``server_learning_rate`` is η: 1 is the plain average.
    """

    rounds: int = 10
    server_learning_rate: float = 1.0
    version: ClassVar[int] = 1

    def __post_init__(self) -> None:
        refuse_outside(self, server_learning_rate=ABOVE_0)

    def init(self, model: Tree) -> Averaged:
        return Averaged(model)

    def select(self, state: Averaged, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Averaged) -> Mapping[str, Tree]:
        return {"model": state.model}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        return train(received["model"], site)

    def update(self, state: Averaged, total: Update) -> Averaged:
        step = mean_difference(total)
        moved = tree.map(lambda w, d: (w + self.server_learning_rate * d).astype(w.dtype, copy=False), state.model, step)
        return replace(state, model=moved, round_number=state.round_number + 1)

    def model(self, state: Averaged) -> Tree:
        return state.model

    def finished(self, state: Averaged) -> bool:
        return state.round_number >= self.rounds


def train(model: Tree, site: Local, correction: Correction | None = None) -> Update:
    """The site half that FedAvg and its relatives share: train from the received model, send the weighted difference."""
    site.learner.load(model)
    site.learner.fit(site.data, steps=site.steps, batch_size=site.batch_size, round_number=site.round_number, rng=site.rng, correction=correction)
    rows = len(site.data)
    trained = site.learner.parameters()
    difference = tree.map(lambda after, before: weighted(after, before, rows), trained, model)
    return Update({"difference": difference, "weight": {"rows": np.array([rows], np.float64)}})


def weighted(after: Any, before: Any, rows: int) -> Any:
    """n · (after − before), with one array made on the way."""
    result = after - before
    result *= after.dtype.type(rows)
    return result


def mark_buffers(update: Update, site: Local) -> Update:
    """The update with the sum ``buffers``: per array n if it is a running mean, 0 if it is a weight. A method whose step is no plain mean
    must know: a running variance that is moved otherwise may become negative."""
    rows, buffers = len(site.data), site.learner.buffers
    marks = {name: np.array([rows if name in buffers else 0], np.float64) for name in update.sums["difference"]}
    return Update({**update.sums, "buffers": marks})


def weights_of(total: Update, model: Tree) -> tuple[str, ...]:
    """Names of the arrays of the model that are weights, not buffers."""
    return tuple(name for name in model if tree.scalar(total.sums["buffers"], name) == 0)


def positive(total: Update, sum_name: str, leaf: str, before: float = 0.0) -> float:
    """What was there before and what the sites send to it. Raises BadUpdate unless it is above 0, as a denominator must be."""
    value = before + tree.scalar(total.sums[sum_name], leaf)
    if not value > 0:
        raise BadUpdate(say("The sum '{sum_name}' is not above 0.", sum_name=sum_name))
    return value


def mean_difference(total: Update) -> Tree:
    """Σ n_k (w_k − w) / Σ n_k."""
    rows = tree.scalar(total.sums["weight"], "rows")
    return tree.map(lambda d: d / d.dtype.type(rows), total.sums["difference"])


EXAMPLE = FedAvg(rounds=3)
