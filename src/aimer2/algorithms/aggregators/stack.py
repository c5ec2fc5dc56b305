"""The sites' updates side by side: what robust aggregators share.

A robust aggregator looks at each site's mean (its sum divided by its rows) and gives every site one voice: a number of rows is the site's own
word, and who may lie about its update may lie about that too. Everything is read in strips, so that a hundred updates in files need the memory
of one strip of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

from aimer2.algorithms.aggregators.weighted_mean import WeightedMean
from aimer2.core import tree
from aimer2.core.errors import BadUpdate
from aimer2.core.said import say
from aimer2.core.tree import Array, Tree
from aimer2.core.update import Update

STRIP = 1 << 14
"""Numbers of each site that are worked on at a time."""

Matrix: TypeAlias = npt.NDArray[Any]
"""``(sites, numbers)``: a strip of the sites' means."""


@final
@dataclass(frozen=True, slots=True)
class Stack:
    """One sum of several sites: ``trees[k] / rows[k]`` is the mean of site k, a row of a matrix that is never whole in memory."""

    trees: tuple[Tree, ...]
    rows: tuple[float, ...]

    def strips(self, name: str, start: int, stop: int) -> Iterator[tuple[int, int, Matrix]]:
        leaves = [site[name] for site in self.trees]
        for begin in range(start, stop, STRIP):
            end = min(begin + STRIP, stop)
            yield begin, end, np.stack([_mean(leaf, rows, begin, end) for leaf, rows in zip(leaves, self.rows, strict=True)])

    def __iter__(self) -> Iterator[Matrix]:
        """All strips of all arrays, float64."""
        for name, leaf in sorted(self.trees[0].items()):
            for _, _, strip in self.strips(name, 0, tree.size(leaf)):
                yield strip.astype(np.float64, copy=False)

    def columns(self, rule: Callable[[Matrix], npt.NDArray[Any]], scale: float) -> Tree:
        """``scale`` times what the rule makes of each column; lazy where any site's array is."""
        made = {name: Columns(self, name, rule, scale) for name in self.trees[0]}
        lazy = {name for name in made if any(not isinstance(site[name], np.ndarray) for site in self.trees)}
        return {name: leaf if name in lazy else tree.load(leaf) for name, leaf in made.items()}

    def mix(self, shares: npt.NDArray[np.float64], scale: float) -> Tree:
        """``scale · Σ shares[k] · mean of site k``, added in the order of the sites; a site of share 0 is not read."""
        used = [number for number, share in enumerate(shares) if share != 0]
        if not used:
            return self.columns(lambda strip: np.zeros_like(strip[0]), scale)
        kept = Stack(tuple(self.trees[number] for number in used), tuple(self.rows[number] for number in used))
        factors = [float(shares[number]) for number in used]

        def rule(strip: Matrix) -> npt.NDArray[Any]:
            mixed = np.zeros(strip.shape[1])
            for factor, row in zip(factors, strip, strict=True):
                mixed += factor * row.astype(np.float64, copy=False)
            return mixed

        return kept.columns(rule, scale)

    def gram(self) -> npt.NDArray[np.float64]:
        """Inner products of the sites' means, ``(sites, sites)``: all that distances between them and their mixtures rest on. One pass."""
        products = np.zeros((len(self.trees), len(self.trees)))
        for strip in self:
            products += strip @ strip.T
        return products


@final
class Columns:
    """A rule over the columns of a stack, not yet computed."""

    __slots__ = ("_name", "_rule", "_scale", "_stack", "dtype", "shape")

    def __init__(self, stack: Stack, name: str, rule: Callable[[Matrix], npt.NDArray[Any]], scale: float) -> None:
        self._stack, self._name, self._rule, self._scale = stack, name, rule, scale
        leaf = stack.trees[0][name]
        self.shape: tuple[int, ...] = tuple(leaf.shape)
        self.dtype: np.dtype[Any] = np.result_type(leaf.dtype, np.float32)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        made = np.empty(stop - start, self.dtype)
        for begin, end, strip in self._stack.strips(self._name, start, stop):
            made[begin - start : end - start] = self._rule(strip) * self._scale
        return made


def _mean(leaf: Array, rows: float, start: int, stop: int) -> npt.NDArray[Any]:
    part = tree.read(leaf, start, stop)
    kind = np.result_type(part.dtype, np.float32).type
    return np.asarray(part / kind(rows))


def middle(strip: Matrix) -> npt.NDArray[Any]:
    """The median of each column; of an even number of sites the mean of the two in the middle. What is not a number counts as the largest."""
    ordered = np.sort(strip, axis=0)
    half = len(ordered) // 2
    return np.asarray(ordered[half] if len(ordered) % 2 else ordered[half - 1] / 2 + ordered[half] / 2)


Rule: TypeAlias = Callable[[Stack, float], Tree]
"""(sites' means, scale) → ``scale`` times their robust mean."""


def combine(updates: Iterable[Update], block: int, needed: int, rule: Rule) -> Update:
    """One update by the rule, such that its ``difference`` divided by its ``weight`` is the robust mean.

    ``difference`` and every sum of the same arrays (``control``) go by the rule, each on its own; ``metrics`` are added; of every other sum
    (``weight``, ``seen``) it is the number of sites times the median. Updates without a ``difference`` (the columns' moments, the last
    evaluation) are added. A site whose rows are not a number above 0 has no mean: only its metrics count.

    Raises BadUpdate where fewer than ``needed`` sites have answered, or their updates do not hold the same sums.
    """
    given = list(updates)
    if not given or "difference" not in given[0].sums:
        return WeightedMean(block)(given)
    _check(given, needed)
    rows = [tree.scalar(update.sums["weight"], "rows") for update in given]
    counted = [number for number, count in enumerate(rows) if 0 < count < float("inf")]
    if not counted:
        raise BadUpdate("No site has a weight above 0.")
    means, ones = tuple(rows[number] for number in counted), (1.0,) * len(counted)
    whole = len(counted) * float(np.median(means))
    sums: dict[str, Tree] = {}
    for name, leaves in given[0].sums.items():
        trees = tuple(given[number].sums[name] for number in counted)
        if name == "metrics":
            sums[name] = WeightedMean(block)(Update({name: update.sums[name]}) for update in given).sums[name]
        elif _form(leaves) == _form(given[0].sums["difference"]):
            sums[name] = rule(Stack(trees, means), whole)
        else:
            sums[name] = Stack(trees, ones).columns(middle, len(counted))
    return Update(sums)


def _check(given: Sequence[Update], needed: int) -> None:
    if len(given) < needed:
        raise BadUpdate(
            say("{count} sites answered; the aggregator can outvote a false update only among {needed} or more.", count=len(given), needed=needed)
        )
    first = given[0].sums
    if any(update.sums.keys() != first.keys() for update in given):
        raise BadUpdate("The updates hold different sums.")
    for name in first:
        tree.check_alike(*(update.sums[name] for update in given))
    if "rows" not in first.get("weight", {}):
        raise BadUpdate("The sum 'weight' lacks 'rows', which the aggregator divides by.")


def _form(leaves: Tree) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in leaves.items()}
