"""What exact sums say about the hospital that sent them, without any attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from aimer2.core import tree
from aimer2.core.tree import Tree

Floats = npt.NDArray[np.float64]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Of each column: how many values, mean, standard deviation (n - 1), float64 ``(columns,)``."""

    count: Floats
    mean: Floats
    deviation: Floats


def columns_of(first: Mapping[str, Tree], second: Mapping[str, Tree]) -> Columns:
    """From the sums of the two passes of `aimer2.statistics.moments`. Exact."""
    count, summed = (_columns(first, name) for name in ("count", "sum"))
    distance, squares = (_columns(second, name) for name in ("sum", "squares"))
    used = np.maximum(count, 1)
    spread = np.maximum(squares - distance**2 / used, 0.0)
    return Columns(count, summed / used, np.sqrt(spread / np.maximum(count - 1, 1)))


def rest(total: Tree, others: Sequence[Tree]) -> dict[str, npt.NDArray[np.float64]]:
    """What is left of a sum for those who know all its parts but one: that part."""
    left = {name: np.array(tree.load(leaf), np.float64) for name, leaf in total.items()}
    for other in others:
        for name, leaf in other.items():
            left[name] = left[name] - np.asarray(tree.load(leaf), np.float64)
    return left


def _columns(sums: Mapping[str, Tree], name: str) -> Floats:
    return np.asarray(tree.load(sums[name]["columns"]), np.float64)
