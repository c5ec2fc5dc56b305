"""The longest that an update may be: its L2 norm is what privacy noise is measured against."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from aimer2.core import tree
from aimer2.core.errors import BadInput, BadUpdate
from aimer2.core.said import say
from aimer2.core.tree import Tree
from aimer2.core.update import Update

_MARGIN = 1 - 2.0**-22
"""Rounding to float32, of the factor and of each product, can lengthen by 2^-23; nothing may be longer than the clip norm."""


def norm(sums: Mapping[str, Tree]) -> float:
    """The L2 norm over all numbers of all trees, added up in float64, a slice in memory at a time."""
    squares = 0.0
    with np.errstate(over="ignore"):
        for leaf in (leaf for named in sums.values() for leaf in named.values()):
            for part in tree.slices(leaf):
                wide = part.astype(np.float64)
                squares += float(np.dot(wide, wide))
    return math.sqrt(squares)


def clip(update: Update, clip_norm: float) -> Update:
    """The update, shortened to the clip norm where it is longer: all its sums by one factor, its direction stays (Abadi et al. 2016, algorithm 1).

    Lazy leaves stay lazy. What the noise is to protect must go through in one call: two sums clipped one by one have a norm of √2.

    Raises BadUpdate where a number is not finite (it has no norm) or a leaf holds whole numbers (they have no factor).
    """
    if not 0 < clip_norm < math.inf:
        raise BadInput("The clip norm is not a positive number.")
    for name, leaf in ((name, leaf) for named in update.sums.values() for name, leaf in named.items()):
        if leaf.dtype.kind != "f":
            raise BadUpdate(say("{name} is {dtype}; only floating-point numbers can be clipped.", name=name, dtype=leaf.dtype.name))
    length = norm(update.sums)
    if not math.isfinite(length):
        raise BadUpdate("The update is not finite or too long to measure.")
    if length <= clip_norm * _MARGIN:
        return update
    factor = clip_norm / length * _MARGIN

    def shorten(part: Any) -> Any:
        return part * factor

    return Update({name: tree.map(shorten, named) for name, named in update.sums.items()})
