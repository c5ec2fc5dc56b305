"""Gradient-boosted trees, grown from histograms of all sites' patients.

Chen, Guestrin 2016, "XGBoost: A Scalable Tree Boosting System": the leaf's value w = −η·G/(H + λ) (equation 5) and the gain of a split
½·[G_L²/(H_L + λ) + G_R²/(H_R + λ) − G²/(H + λ)] − γ (equation 7), G and H the sums of the first and second derivatives of the loss by the margin;
section 3.4: a missing value goes the way that gains more. Trees grow level by level; a round is one level, of the trees of all classes at once.
The first round lays the bins: each site counts its values in cells of 1/128 of a power of two, the coordinator cuts the pooled counts into quantiles.
So T trees of depth D take 1 + T·D rounds (a tree that ends early takes fewer; of depth 0, one each).

Derivatives are counted in whole steps of 2^-24 (of a regression: of a power of two near the standard deviation, times 2^-24), so sums are exact: the
trees do not depend on how patients are spread over sites, on the order of sites, nor on whether they are added in secret.

Leaves the site: ``histogram`` = in the first round per feature how many rows lie in each cell, and the rows per class (of a regression n, Σy and
Σy²), then per open node, feature and bin Σg, Σh and the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Any, ClassVar, Protocol, cast, final

import numpy as np
import numpy.typing as npt

from aimer2.core import tree
from aimer2.core.dataset import Dataset
from aimer2.core.errors import BadModel, BadUpdate
from aimer2.core.protocols import Learner, Local
from aimer2.core.ranges import ABOVE_0, AT_LEAST_0, AT_LEAST_1, refuse_outside
from aimer2.core.said import say
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update

Array = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]

STEP = 2.0**-24
"""In which second derivatives are counted; 2^29 rows of a site are still added without rounding."""

_OCTAVES, _PER_OCTAVE = (-10, 22), 128
_SPAN = (_OCTAVES[1] - _OCTAVES[0]) * _PER_OCTAVE
CELLS = 2 * _SPAN + 1
"""Of the first round: magnitudes from 2^-10 to 2^22 in steps of 1/128 of their power of two, both signs, and zero."""

_SHIFT = np.uint64(45)
_FIRST = (1023 + _OCTAVES[0]) * _PER_OCTAVE
_CHUNK = 1 << 17
_JOINT = 1 << 17
"""Rows, and cells of a joint histogram, that stay in a core's cache."""

_NOISE = 1e-12
"""A gain below this part of the scores that it is the difference of is rounding."""

_LEAVES = frozenset(("edges", "base", "unit", "feature", "bin", "missing_left", "value", "count"))


class Grows(Learner, Protocol):
    """A learner whose model is trees; `aimer2.learners.trees`."""

    def codes(self, data: Dataset) -> npt.NDArray[np.uint8]: ...
    def nodes(self, data: Dataset, number: int) -> npt.NDArray[np.intp]: ...
    def derivatives(self, data: Dataset, number: int) -> tuple[Array, Array]: ...
    def outcome(self, data: Dataset) -> Array: ...


@final
@dataclass(frozen=True, slots=True)
class Growing:
    """The state: the trees, and which level of which tree comes next."""

    model: Tree
    round_number: int = 0
    number: int = 0
    depth: int = 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class BoostedTrees:
    """Decision trees, each correcting those before it; the splits are found on the sum of all sites' histograms.

    ``learning_rate`` is η, ``reg_lambda`` λ, ``gamma`` γ, ``min_child_weight`` the least H and ``min_leaf_rows`` the fewest rows of all sites
    together in a node that a split makes.
    """

    rounds: int = 5
    learning_rate: float = 0.1
    reg_lambda: float = 1.0
    gamma: float = 0.0
    min_child_weight: float = 1.0
    min_leaf_rows: int = 10
    version: ClassVar[int] = 1
    frameworks: ClassVar[tuple[str, ...]] = ("trees",)

    def __post_init__(self) -> None:
        refuse_outside(self, learning_rate=ABOVE_0, reg_lambda=AT_LEAST_0, gamma=AT_LEAST_0, min_child_weight=AT_LEAST_0, min_leaf_rows=AT_LEAST_1)

    def init(self, model: Tree) -> Growing:
        """Raises BadModel for a model that is not trees."""
        if model.keys() != _LEAVES:
            raise BadModel("boosted_trees grows trees, and this model is none.", remedy="Set model.framework = 'trees'.")
        return Growing(model)

    def select(self, state: Growing, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Growing) -> Mapping[str, Tree]:
        """The trees so far, and which nodes of which tree are open: output and node of each. Before there are bins: of none."""
        nodes = self._open(state) if state.round_number else np.zeros((0, 2), np.int64)
        number = state.number if state.round_number else -1
        return {"model": state.model, "open": {"number": np.array([number], np.int64), "nodes": nodes}}

    @staticmethod
    def layouts(received: Mapping[str, Tree]) -> Mapping[str, Mapping[str, tuple[str, tuple[int, ...]]]]:
        """Type and shape of each array of each sum: what a site's agent lets out."""
        features, edges = received["model"]["edges"].shape
        outputs, nodes = received["model"]["base"].shape[0], received["open"]["nodes"].shape[0]
        if not nodes:
            return {"histogram": {"cells": ("int64", (features, CELLS)), "outcome": ("float64", (outputs + 2,))}}
        return {"histogram": dict.fromkeys(("gradient", "curvature", "rows"), ("int64", (nodes, features, edges + 2)))}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        learner = cast(Grows, site.learner)
        learner.load(received["model"])
        number = int(tree.scalar(received["open"], "number"))
        if number < 0:
            features = np.asarray(site.data.batch(np.arange(len(site.data)))[0], np.float64).reshape(len(site.data), -1)
            cells = np.stack([_counted(column) for column in features.T])
            return Update({"histogram": {"cells": cells, "outcome": learner.outcome(site.data)}})
        nodes = tree.load(received["open"]["nodes"])
        bins = received["model"]["edges"].shape[1] + 1
        gradient, curvature = learner.derivatives(site.data, number)
        weights = [_whole(gradient, tree.scalar(received["model"], "unit")), _whole(curvature, STEP), None]
        sums = _histograms(learner.codes(site.data), _slots(learner.nodes(site.data, number), nodes), weights, len(nodes), bins + 1)
        return Update({"histogram": dict(zip(("gradient", "curvature", "rows"), sums, strict=True))})

    def update(self, state: Growing, total: Update) -> Growing:
        """Raises BadUpdate where the sums are not those that were asked for."""
        sums = {name: tree.load(leaf) for name, leaf in total.sums["histogram"].items()}
        model = {name: np.array(tree.load(leaf)) for name, leaf in state.model.items()}
        if state.round_number == 0:
            model.update(self._begun(sums, model))
            return replace(state, model=model, round_number=1)
        self._split(model, state, sums)
        grown = replace(state, model=model, round_number=state.round_number + 1, depth=state.depth + 1)
        if state.depth + 1 < _depth(model) and len(self._open(grown)):
            return grown
        return replace(grown, number=state.number + 1, depth=0)

    def model(self, state: Growing) -> Tree:
        return state.model

    def finished(self, state: Growing) -> bool:
        return state.round_number >= self.rounds or state.number >= int(state.model["feature"].shape[0])

    def _open(self, state: Growing) -> Integers:
        """Output and node of each node of the level that may be split, ``(m, 2)``: children of the split ones with rows enough for two."""
        first = 2**state.depth - 1
        count = tree.load(state.model["count"])[state.number, :, first : 2 * first + 1]
        enough = np.ones_like(count, bool) if state.depth == 0 else count >= 2 * self.min_leaf_rows
        nodes: Integers = np.argwhere(enough).astype(np.int64) + np.array([0, first])
        return nodes

    def _begun(self, sums: Mapping[str, Array], model: Mapping[str, Array]) -> dict[str, Array]:
        """Bins of about as many rows each, none of fewer than a leaf needs; and the margin from which the first tree starts."""
        cells = _checked(sums, "cells", (len(model["edges"]), CELLS))
        bins = model["edges"].shape[1] + 1
        return {"edges": np.stack([_cut(counts, bins, self.min_leaf_rows) for counts in cells]), **_start(sums, model)}

    def _split(self, model: dict[str, Array], state: Growing, sums: Mapping[str, Array]) -> None:
        """The best split of each open node, where one gains."""
        nodes = self._open(state)
        shape = (len(nodes), len(model["edges"]), model["edges"].shape[1] + 2)
        gradient, curvature, rows = (_checked(sums, name, shape) for name in ("gradient", "curvature", "rows"))
        pooled = _Sums(gradient, curvature, rows, float(model["unit"][0]))
        grown = {name: model[name][state.number] for name in ("feature", "bin", "missing_left", "value", "count")}
        whole = pooled.whole()
        if state.depth == 0:
            self._set(grown, nodes[:, 0], nodes[:, 1], whole)
        if state.depth >= _depth(model):
            return
        left = pooled.left()
        right = whole.spread() - left
        gain = self._gain(whole, left, right)
        best = gain.reshape(len(nodes), -1).argmax(axis=1)
        chosen = np.unravel_index(best, gain.shape[1:])
        split = np.flatnonzero(np.isfinite(gain[(np.arange(len(nodes)), *chosen)]))
        at = (split, *(part[split] for part in chosen))
        output, node = nodes[split].T
        grown["feature"][output, node], grown["bin"][output, node] = at[1], at[2]
        larger = left.rows[at] > right.rows[at]
        grown["missing_left"][output, node] = np.where(rows[at[0], at[1], -1] > 0, at[3], larger)
        self._set(grown, output, 2 * node + 1, left.at(at))
        self._set(grown, output, 2 * node + 2, right.at(at))

    def _set(self, grown: dict[str, Array], output: Array, node: Array, sums: _Totals) -> None:
        grown["value"][output, node] = -self.learning_rate * _divided(sums.gradient, sums.curvature + self.reg_lambda)
        grown["count"][output, node] = sums.rows

    def _gain(self, whole: _Totals, left: _Totals, right: _Totals) -> Array:
        """Equation 7, ``(m, p, B − 1, 2)``; minus infinity where a child has too little, or the gain is none."""
        apart = self._score(left) + self._score(right)
        gain = 0.5 * (apart - self._score(whole.spread())) - self.gamma
        usable = (np.minimum(left.rows, right.rows) >= self.min_leaf_rows) & (gain > _NOISE * apart)
        usable &= np.minimum(left.curvature, right.curvature) >= self.min_child_weight
        return np.where(usable, gain, -np.inf)

    def _score(self, sums: _Totals) -> Array:
        return _divided(sums.gradient**2, sums.curvature + self.reg_lambda)


@final
@dataclass(frozen=True, slots=True)
class _Totals:
    """G, H and the number of rows."""

    gradient: Array
    curvature: Array
    rows: Array

    def __sub__(self, other: _Totals) -> _Totals:
        return _Totals(self.gradient - other.gradient, self.curvature - other.curvature, self.rows - other.rows)

    def at(self, place: Any) -> _Totals:
        return _Totals(self.gradient[place], self.curvature[place], self.rows[place])

    def spread(self) -> _Totals:
        return self.at((slice(None), None, None, None))


@final
@dataclass(frozen=True, slots=True)
class _Sums:
    """The sites' histograms, ``(m, p, B + 1)``, the last bin of the missing."""

    gradient: Integers
    curvature: Integers
    rows: Integers
    unit: float

    def whole(self) -> _Totals:
        """Of each node: over the bins of any feature."""
        return self._told(*(part[:, 0].sum(axis=-1) for part in (self.gradient, self.curvature, self.rows)))

    def left(self) -> _Totals:
        """Of each cut after a bin, without the missing and with them: ``(m, p, B − 1, 2)``."""
        return self._told(*map(_cumulated, (self.gradient, self.curvature, self.rows)))

    def _told(self, gradient: Integers, curvature: Integers, rows: Integers) -> _Totals:
        return _Totals(gradient * self.unit, curvature * STEP, rows)


def _cumulated(part: Integers) -> Integers:
    present = part[..., :-1].cumsum(axis=-1)[..., :-1]
    return np.stack([present, present + part[..., -1:]], axis=-1)


def _divided(over: Array, under: Array) -> Array:
    return np.divide(over, under, out=np.zeros_like(over), where=under > 0)


def _depth(model: Tree) -> int:
    return int(model["feature"].shape[2] + 1).bit_length() - 2


def _checked(sums: Mapping[str, Array], name: str, shape: tuple[int, ...]) -> Integers:
    """Raises BadUpdate for another shape or type, and for a number of rows below 0."""
    found = sums[name]
    if found.shape != shape or found.dtype != np.int64 or (name in ("cells", "rows") and (found < 0).any()):
        raise BadUpdate(say("The histogram's {name} are not what was asked for.", name=name))
    return found


def _whole(values: Array, step: float) -> Array:
    return np.rint(values / step)


def _slots(nodes: npt.NDArray[np.intp], wanted: Integers) -> npt.NDArray[np.intp]:
    """Of each row and output, the place of its node among the open ones, −1 elsewhere: ``(n, K)``."""
    places = np.full((nodes.shape[1], int(max(nodes.max(initial=0), wanted[:, 1].max(initial=0))) + 1), -1, np.intp)
    places[wanted[:, 0], wanted[:, 1]] = np.arange(len(wanted))
    return places[np.arange(nodes.shape[1]), nodes]


def _histograms(codes: Array, slots: Array, weights: Sequence[Array | None], count: int, bins: int) -> list[Integers]:
    """Per weight ``(count, p, bins)``: sums of whole numbers, so exact in float64 up to 2^53; None counts rows."""
    sums = [np.zeros((count, len(codes), bins), np.int64) for _ in weights]
    for output in range(slots.shape[1]):
        for rows in _inside(slots[:, output]):
            slot, weighing = slots[rows, output], [None if weight is None else weight[rows, output] for weight in weights]
            if slot.size * len(codes) <= _CHUNK:
                _at_once(sums, codes[:, rows], slot, weighing)
            else:
                _in_pairs(sums, codes, rows, slot, weighing)
    return sums


def _at_once(sums: Sequence[Integers], codes: Array, slot: Array, weights: Sequence[Array | None]) -> None:
    """Of few rows: one pass over all their values."""
    shape = sums[0].shape
    place = ((slot * shape[1] + np.arange(shape[1])[:, None]) * shape[2] + codes).ravel()
    for total, weight in zip(sums, weights, strict=True):
        repeated = None if weight is None else np.broadcast_to(weight, codes.shape).ravel()
        total[...] += _rounded(np.bincount(place, repeated, total.size)).reshape(shape)


def _in_pairs(sums: Sequence[Integers], codes: Array, rows: Any, slot: Array, weights: Sequence[Array | None]) -> None:
    """Two features at a time where their joint histogram fits the cache: half as many passes over the rows."""
    count, features, bins = sums[0].shape
    width = 2 if count * bins * bins <= _JOINT else 1
    for first in range(0, features, width):
        group = range(first, min(first + width, features))
        place = slot
        for feature in group:
            place = place * bins + codes[feature, rows]
        shape = (count, *[bins] * len(group))
        for total, weight in zip(sums, weights, strict=True):
            joint = _rounded(np.bincount(place, weight, prod(shape))).reshape(shape)
            for axis, feature in enumerate(group, 1):
                total[:, feature] += joint if len(group) == 1 else joint.sum(axis=3 - axis)


def _rounded(sums: Array) -> Integers:
    """What is whole already, as integers."""
    return np.rint(sums).astype(np.int64)


def _inside(slots: Array) -> Iterator[Any]:
    """The rows of open nodes, in chunks: slices where they are all."""
    rows = np.flatnonzero(slots >= 0)
    whole = len(rows) == len(slots)
    for start in range(0, len(rows), _CHUNK):
        yield slice(start, start + _CHUNK) if whole else rows[start : start + _CHUNK]


def _counted(column: Array) -> Integers:
    """How many values lie in each cell; missing ones in none."""
    values = column[~np.isnan(column)]
    magnitude = (np.abs(values).view(np.uint64) >> _SHIFT).astype(np.int64) - _FIRST + 1
    cells = np.clip(magnitude, 0, _SPAN) * np.where(values < 0, -1, 1) + _SPAN
    return np.bincount(cells, minlength=CELLS).astype(np.int64)


def _bounds() -> tuple[Array, Array]:
    """Where each cell begins and ends."""
    begins = (np.arange(_FIRST, _FIRST + _SPAN + 1).astype(np.uint64) << _SHIFT).view(np.float64)
    return np.concatenate([-begins[:0:-1], -begins[:1], begins[:-1]]), np.concatenate([-begins[-2::-1], begins[:1], begins[1:]])


def _cut(counts: Integers, bins: int, fewest: int) -> Array:
    """Edges between occupied cells, in the middle of the gap; of each bin as many rows as any, at least the fewest."""
    begins, ends = _bounds()
    edges = np.full(bins - 1, np.finfo(np.float64).max)
    occupied = np.flatnonzero(counts)
    spread = len(occupied) > bins
    left, held, made = int(counts.sum()), 0, 0
    wanted = left / bins if spread else 0
    for cell, following in pairwise(occupied):
        held, left = held + int(counts[cell]), left - int(counts[cell])
        if made < bins - 1 and held >= max(wanted, fewest) and left >= fewest:
            edges[made] = (ends[cell] + begins[following]) / 2
            held, made = 0, made + 1
            wanted = left / (bins - made) if spread else 0
    return edges


def _start(sums: Mapping[str, Array], model: Mapping[str, Array]) -> dict[str, Array]:
    """The margin of the best constant, and the step in which gradients are counted; a regression has none at first."""
    outputs, outcome = len(model["base"]), sums["outcome"]
    if outcome.shape != (outputs + 2,) or not outcome[0] >= 0:
        raise BadUpdate("The sums of the outcome are not what was asked for.")
    if model["unit"][0] > 0:
        classes = outcome[: max(2, outputs)]
        logarithms = np.log(np.maximum(classes, 0.5) / max(classes.sum(), 1.0))
        return {"base": logarithms[1:] - logarithms[:1] if outputs == 1 else logarithms}
    rows, total, squares = (float(value) for value in outcome)
    mean = total / max(rows, 1.0)
    variance = max(squares / max(rows, 1.0) - mean**2, 0.0)
    unit = 2.0 ** np.floor(np.log2(variance) / 2) * STEP if variance > 0 else STEP
    return {"base": np.array([np.rint(mean / unit) * unit]), "unit": np.array([unit])}


EXAMPLE = BoostedTrees(rounds=5)
