"""Records rebuilt from an update, by algebra on the model's first layer.

A dense first layer z = W·x + b changes in training by ΔW = Σ_i δ_i·x_iᵀ and Δb = Σ_i δ_i over the records i of a batch, and over batches too while
the steps are linear in the gradients (sgd, with or without momentum). So ΔW is made of the records themselves:

- one record: every row of ΔW divided by its entry of Δb **is** the record (Geiping et al. 2020, "Inverting Gradients", proposition 3.1);
- several: so is the row of a unit that one record alone has moved (Boenisch et al. 2023, "When the Curious Abandon Honesty");
- fewer records than units and features: all of them lie in the span of ΔW's rows, and there `aimer2.attacks.torch_matching` searches them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, final

import numpy as np
import numpy.typing as npt

from aimer2.core import tree
from aimer2.core.tree import Tree

Floats = npt.NDArray[np.float64]

CLOSE = 0.1
"""A record counts as rebuilt where the root mean square of the errors of its features is below this many standard deviations of a feature."""

_FAR = 50.0
"""No record is farther than this from the mean, in standard deviations."""

_GAP = 100.0


@final
@dataclass(frozen=True, slots=True, eq=False)
class FirstLayer:
    """How the first layer was moved: ``weight`` (units, features), ``bias`` (units,)."""

    weight: Floats
    bias: Floats


@final
@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """How near an attacker's candidates came to the records. ``errors`` (records,): root mean square over the features to the nearest candidate;
    ``nearest`` (records,): which one that is; ``chance``: how many records as many guesses from the marginals come as near to."""

    candidates: Floats
    errors: Floats
    nearest: npt.NDArray[np.int64]
    chance: int

    @property
    def rebuilt(self) -> int:
        return int((self.errors < CLOSE).sum())


def first_layer(difference: Tree, feature_shape: tuple[int, ...]) -> FirstLayer | None:
    """What a difference says of a dense layer on the features, as torch, scikit-learn or the numpy models name it; None where there is none with
    a bias."""
    width = prod(feature_shape)
    for name, leaf in difference.items():
        bias = _bias_of(name)
        if bias == name or bias not in difference:
            continue
        weight, moved = np.asarray(tree.load(leaf), np.float64), np.asarray(tree.load(difference[bias]), np.float64).reshape(-1)
        if (weight.shape == (width, len(moved)) and not name.endswith("weight")) or weight.shape == (width,):
            weight = weight.reshape(width, -1).T
        if weight.shape == (len(moved), width):
            return FirstLayer(weight, moved)
    return None


def _bias_of(name: str) -> str:
    for weight, bias in (("coefficients", "intercept"), ("coef", "intercept"), ("kernel", "bias"), ("weight", "bias")):
        if weight in name:
            return name.replace(weight, bias)
    return name


def ratios(layer: FirstLayer) -> Floats:
    """The record that each unit would have seen if it had seen one only, (candidates, features)."""
    moved = np.abs(layer.bias) > 1e-9 * np.abs(layer.bias).max(initial=1e-300)
    with np.errstate(over="ignore"):
        candidates: Floats = layer.weight[moved] / layer.bias[moved, None]
    return candidates[np.isfinite(candidates).all(axis=1)]


def span(layer: FirstLayer) -> Floats | None:
    """An orthonormal basis (k, features) of what the records are made of, where that is less than everything: the singular values of ΔW fall
    into a gap of rounding behind as many as there are records."""
    _, values, rows = np.linalg.svd(layer.weight, full_matrices=False)
    gaps = values[:-1] / np.maximum(values[1:], 1e-300)
    place = int(np.argmax(gaps)) + 1 if len(gaps) else 0
    return rows[:place] if len(gaps) and gaps[place - 1] > _GAP else None


def beside(difference: Tree, columns: int) -> Floats | None:
    """Of an update made of one record the columns that stand beside its image, ``(columns,)``: they enter a dense layer as they are, as the last of
    its inputs, so a row of its change divided by that of its bias ends with them. None where there is no such layer, or it was not moved."""
    for name, leaf in difference.items():
        bias = _bias_of(name)
        weight = np.asarray(tree.load(leaf), np.float64)
        if bias == name or bias not in difference or weight.ndim != 2 or weight.shape[1] <= columns:
            continue
        moved = np.asarray(tree.load(difference[bias]), np.float64).reshape(-1)
        if len(moved) == len(weight) and len(found := ratios(FirstLayer(weight[:, -columns:], moved))):
            return np.asarray(np.median(found, axis=0))
    return None


def judge(
    candidates: Floats, records: npt.NDArray[Any], population: npt.NDArray[Any], rng: np.random.Generator, deviation: Floats | None = None
) -> Outcome:
    """How near the candidates came, in standard deviations of each feature in ``population`` (or in ``deviation``), against as many guesses that draw
    each feature by itself from there: who knows how each feature is distributed comes so near by chance."""
    known = np.asarray(population, np.float64).reshape(len(population), -1)
    deviation = known.std(axis=0) if deviation is None else deviation
    scale = np.where(deviation > 0, deviation, 1.0)
    flat = np.asarray(records, np.float64).reshape(len(records), -1) / scale
    guesses = np.column_stack([rng.choice(column, size=len(candidates)) for column in known.T]) / scale
    plausible = np.abs((candidates - known.mean(axis=0)) / scale).max(axis=1, initial=0.0) < _FAR
    places = np.flatnonzero(plausible)
    errors, nearest = _nearest(candidates[places] / scale, flat)
    by_chance, _ = _nearest(guesses, flat)
    whose = places[nearest] if len(places) else nearest
    return Outcome(candidates, errors, whose, int((by_chance < CLOSE).sum()))


def _nearest(candidates: Floats, records: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    if len(candidates) == 0:
        return np.full(len(records), np.inf), np.full(len(records), -1, np.int64)
    squares = (records**2).sum(axis=1)[:, None] + (candidates**2).sum(axis=1) - 2 * records @ candidates.T
    nearest = squares.argmin(axis=1)
    errors = np.sqrt(((records - candidates[nearest]) ** 2).mean(axis=1))
    return errors, nearest
