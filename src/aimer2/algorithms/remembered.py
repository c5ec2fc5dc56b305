"""What a site keeps of a method across rounds: one tree, and how many rows its share counted.

A round whose sum does not hold the site's answer (it came late, or the round is asked anew) must leave no trace, or the site's own tree and the
coordinator's sum of all sites' trees would part for ever. So both are kept, before and after the last round that the site answered, and the
coordinator says which answer was the last that counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from aimer2.core import tree
from aimer2.core.protocols import Local
from aimer2.core.tree import Tree


@final
@dataclass(frozen=True, slots=True)
class Remembered:
    """The site's tree and rows as they were before this round; zeros and 0 at a site that has never taken part."""

    leaves: Tree
    rows: float


def recall(site: Local, model: Tree) -> Remembered:
    """What the site kept of the answers that counted. Raises BadUpdate where it belongs to another model."""
    if "last" not in site.memory:
        return Remembered(zeros(model), 0.0)
    moment = moment_of(site)
    tree.check_alike(model, site.memory[moment])
    return Remembered(site.memory[moment], tree.scalar(site.memory["last"], f"rows_{moment}"))


def moment_of(site: Local) -> Literal["before", "after"]:
    """Which of both trees a round starts from: what was there before the last answer, where that did not count."""
    counted = site.round_number - 1 if site.counted is None else site.counted
    return "before" if tree.scalar(site.memory["last"], "round_number") > counted else "after"


def remember(site: Local, before: Remembered, leaves: Tree) -> Tree:
    """Keeps the tree; returns the sum ``seen``: by how many rows the site's share has grown, all of them in its first round."""
    rows = float(len(site.data))
    counted = {"round_number": site.round_number, "rows_before": before.rows, "rows_after": rows}
    site.memory["before"] = before.leaves
    site.memory["after"] = leaves
    site.memory["last"] = {name: np.array([value], np.float64) for name, value in counted.items()}
    return {"rows": np.array([rows - before.rows], np.float64)}


def zeros(model: Tree) -> dict[str, np.ndarray]:
    return {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in model.items()}
