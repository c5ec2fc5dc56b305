"""Boosted trees as arrays, and what they say of a row: margins, added up tree by tree.

A node has its children at 2i + 1 (left) and 2i + 2 (right), the root is 0. T trees per output, K outputs, N = 2^(depth + 1) − 1 nodes, p
features, B bins: ``edges`` (p, B − 1) between the bins, rising, the largest float where there are fewer; ``base`` (K,) the margin before the first
tree; ``unit`` (1,) the step in which gradients are counted (0: not yet known); and (T, K, N) each ``feature`` (−1: a leaf), ``bin``,
``missing_left`` (1: a missing value goes left), ``value`` of a leaf, ``count`` of the training rows. A value's bin is the number of edges at or
below it; up to ``bin`` it goes left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, final

import numpy as np
import numpy.typing as npt

from aimer2.models.options import BoostedTreesOptions

Array = npt.NDArray[Any]
Parameters = Mapping[str, Array]


@final
@dataclass(frozen=True, slots=True)
class BoostedTrees:
    """The form of the trees; their arrays are handed in."""

    features: int
    outputs: int
    trees: int
    max_depth: int
    bins: int

    def initial(self) -> dict[str, Array]:
        """No tree yet; equal bins from −1 to 1."""
        shape = (self.trees, self.outputs, 2 ** (self.max_depth + 1) - 1)
        return {
            "edges": np.tile(np.linspace(-1.0, 1.0, self.bins + 1)[1:-1], (self.features, 1)),
            "base": np.zeros(self.outputs),
            "unit": np.full(1, 2.0**-24),
            "feature": np.full(shape, -1, np.int64),
            "bin": np.zeros(shape, np.int64),
            "missing_left": np.zeros(shape, np.int64),
            "value": np.zeros(shape),
            "count": np.zeros(shape, np.int64),
        }

    def grown(self, parameters: Parameters) -> int:
        """How many trees there are, one that is being grown included."""
        return int((parameters["count"][:, :, 0] > 0).any(axis=1).sum())

    def codes(self, parameters: Parameters, features: Array) -> npt.NDArray[np.uint8]:
        """The bin of each value, ``(p, n)``; ``bins`` itself where it is missing."""
        table = features.reshape(len(features), self.features)
        codes = np.empty((self.features, len(table)), np.uint8)
        for number, edges in enumerate(parameters["edges"]):
            column = table[:, number]
            codes[number] = np.where(np.isnan(column), self.bins, np.searchsorted(edges, column, side="right"))
        return codes

    def nodes(self, parameters: Parameters, codes: npt.NDArray[np.uint8], number: int, output: int) -> npt.NDArray[np.intp]:
        """Where each row comes to rest in a tree, ``(n,)``."""
        feature, last, missing_left = (parameters[name][number, output] for name in ("feature", "bin", "missing_left"))
        node = np.zeros(codes.shape[1], np.intp)
        rows = np.arange(codes.shape[1])
        for depth in range(self.max_depth):
            level = slice(2**depth - 1, 2 ** (depth + 1) - 1)
            if not (feature[level] >= 0).any():
                break
            asked = feature[node]
            inner = asked >= 0
            code = codes[np.where(inner, asked, 0), rows]
            right = code > last[node]
            if missing_left[level].any():
                right &= (code != self.bins) | (missing_left[node] == 0)
            node = np.where(inner, 2 * node + 1 + right, node)
        return node

    def add(self, margins: Array, parameters: Parameters, codes: npt.NDArray[np.uint8], number: int) -> None:
        """Adds what one tree of each output says to the margins ``(n, K)``."""
        for output in range(self.outputs):
            margins[:, output] += parameters["value"][number, output][self.nodes(parameters, codes, number, output)]


def build(feature_shape: tuple[int, ...], outputs: int, options: BoostedTreesOptions) -> BoostedTrees:
    return BoostedTrees(prod(feature_shape), outputs, options.trees, options.max_depth, options.bins)
