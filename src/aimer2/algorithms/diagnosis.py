"""A trial of federated averaging that measures how the sites differ, from sums alone.

It trains as FedAvg does. Beside that each site sends sums that, divided at the coordinator, say how much of the variance lies between sites
(one-way analysis of variance; ε² = (SS_between − (k − 1)·MS_within) / SS_total, Kelley 1935, "An Unbiased Correlation Ratio Measure", which is 0 on
average where sites do not differ): of the label; of each feature and of its distance from 0, among all rows and among rows of one class; the same
between the study's groups (scanners, say). SS_between needs Σ s_k²/n_k, which is a sum like any other. Of images the features are each channel's
mean and spread.

How far the sites' steps disagree: each site takes its steps twice more, over two halves of its patients, to a_k and b_k. Products across halves
have no noise of sampling in their mean, so D = 1 − ⟨Σ n_k a_k, Σ n_k b_k⟩ / (n · Σ n_k ⟨a_k, b_k⟩) is 0 where all sites go one way and 1 where
they cancel; it is the part of the dissimilarity B² of Li et al. 2020, "Federated Optimization in Heterogeneous Networks" (Definition 3), that is
not chance. At the end the site compares the common model, that model after some steps of its own, and one that it trained alone.

Leaves the site: ``difference`` = n · (w_local − w_received), one array per parameter; ``weight`` = n, the number of training rows; ``first_half`` =
n · a; ``second_half`` = n · b; ``agreement`` = n · ⟨a, b⟩ and n · ‖w_local − w_received‖²; ``setting`` = that it is one site, n², its steps τ and τ²,
whether the model has running means; ``labels`` = per column of the label its sum s, s² / n and the sum of its squares, counts of fewer than ten
patients told as five; ``features`` = the same per class and summary of a feature, and the rows, classes of fewer than ten patients left out;
``columns`` = the same of all classes together; ``groups`` = per group and class rows, sums and squares of the features, fewer than ten patients left
out, where the study names groups; ``kept_metrics`` = at the end, the evaluation sums of the model that the site keeps, on its held-out patients;
``local_metrics`` = at the end, those of the model that it has trained alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt

from aimer2.algorithms.fedavg import Averaged, FedAvg, train
from aimer2.algorithms.personal import SHARE, fit
from aimer2.core import tree
from aimer2.core.dataset import Dataset, Samples
from aimer2.core.errors import BadData
from aimer2.core.protocols import Local
from aimer2.core.ranges import refuse_outside
from aimer2.core.task import SiteId
from aimer2.core.tree import Tree
from aimer2.core.update import Update
from aimer2.privacy.disclosure import MINIMUM_CELL, ROUNDING

Floats = npt.NDArray[np.float64]

_CHUNK = 4096

_FEWEST = 4
"""Rows of which two halves can be trained on."""

_WORDS = ("across", "length", "sites", "rows", "rows_squared", "steps", "steps_squared", "buffers", "cells", "sum", "squares", "between")
"""What the arrays of its own sums are called."""

_FAR = 5.0
"""Standardised features are cut to this: one odd value must not be a shift."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """FedAvg for a few rounds, measured."""

    rounds: int = 3
    validation: float = 0.2
    words: ClassVar[tuple[str, ...]] = _WORDS
    version: ClassVar[int] = 1
    may_group: ClassVar[bool] = True
    frameworks: ClassVar[tuple[str, ...]] = ("numpy", "torch", "keras", "sklearn")

    def __post_init__(self) -> None:
        refuse_outside(self, validation=SHARE)

    def init(self, model: Tree) -> Averaged:
        return Averaged(model)

    def select(self, state: Averaged, sites: Sequence[SiteId]) -> Sequence[SiteId]:
        return sites

    def broadcast(self, state: Averaged) -> Mapping[str, Tree]:
        return {"model": state.model}

    def local(self, received: Mapping[str, Tree], site: Local) -> Update:
        if len(site.data) < _FEWEST:
            raise BadData("There are too few rows for two halves to be trained on.")
        sent = train(received["model"], site)
        rows, moved = float(len(site.data)), sent.sums["difference"]
        first, second = (_moved(received["model"], replace(site, data=half)) for half in _halves(site))
        agreement = {
            "across": np.array([rows * sum(_dot(first[name], second[name]) for name in first)]),
            "length": np.array([sum(_dot(moved[name], moved[name]) for name in first) / rows]),
        }
        halves = {"first_half": _times(first, rows), "second_half": _times(second, rows)}
        return Update({**sent.sums, **halves, "agreement": agreement, **_shifts(site)})

    def personal(self, received: Mapping[str, Tree], site: Local) -> Tree:
        site.learner.load(received["model"])
        return fit(site)

    def update(self, state: Averaged, total: Update) -> Averaged:
        return FedAvg(rounds=self.rounds).update(state, total)

    def model(self, state: Averaged) -> Tree:
        return state.model

    def finished(self, state: Averaged) -> bool:
        return state.round_number >= self.rounds


# the site's half


def _halves(site: Local) -> list[Samples]:
    """By patient, at random, the same in each attempt at a round."""
    patients = _patients(site.data)
    known = np.unique(patients)
    first = np.isin(patients, site.rng.permutation(known)[: len(known) // 2])
    if first.all() or not first.any():
        raise BadData("There are too few patients for two halves to be trained on.")
    return [Samples(*site.data.batch(np.flatnonzero(rows))) for rows in (first, ~first)]


def _moved(model: Tree, site: Local) -> dict[str, Any]:
    """The change of each weight; running means are no step."""
    site.learner.load(model)
    after = fit(site)
    return {name: leaf - model[name] for name, leaf in after.items() if name not in site.learner.buffers}


def _times(leaves: Mapping[str, Any], rows: float) -> dict[str, Any]:
    return {name: leaf * leaf.dtype.type(rows) for name, leaf in leaves.items()}


def _dot(first: Any, second: Any) -> float:
    return float(np.dot(np.asarray(first, np.float64).reshape(-1), np.asarray(second, np.float64).reshape(-1)))


def _patients(data: Dataset) -> npt.NDArray[Any]:
    known = data.patients if isinstance(data, Samples) else None
    return np.arange(len(data)) if known is None else known


def _shifts(site: Local) -> dict[str, Tree]:
    rows, patients = float(len(site.data)), _patients(site.data)
    features, targets = _read(site.data)
    labels, member = _labels(targets, site)
    counted = np.issubdtype(targets.dtype, np.integer)
    summed = _told(labels.sum(axis=0), rows) if counted else labels.sum(axis=0)
    setting = {"sites": 1, "rows_squared": rows**2, "steps": site.steps, "steps_squared": site.steps**2, "buffers": len(site.learner.buffers)}
    told: dict[str, Tree] = {
        "setting": {name: np.array([value], np.float64) for name, value in setting.items()},
        "labels": {"sum": summed, "between": summed**2 / rows, "squares": summed if counted else (labels**2).sum(axis=0)},
        "features": _cells(features, list(member.T), patients),
        "columns": _cells(features, [np.ones(len(features), bool)], patients),
    }
    groups = site.data.groups if isinstance(site.data, Samples) else None
    if groups is not None:
        cells = _cells(features, [one & (group > 0) for one in member.T for group in groups.T], patients)
        told["groups"] = {name: cells[name].reshape(member.shape[1], groups.shape[1], *cells[name].shape[1:]) for name in ("rows", "sum", "squares")}
    return told


def _read(data: Dataset) -> tuple[Floats, npt.NDArray[Any]]:
    """Summaries of the features ``(n, columns)``, and the targets."""
    parts, targets = [], []
    for start in range(0, len(data), _CHUNK):
        rows, wanted = data.batch(np.arange(start, min(start + _CHUNK, len(data))))
        parts.append(_summaries(np.nan_to_num(np.asarray(rows, np.float64))))
        targets.append(wanted)
    return np.concatenate(parts), np.concatenate(targets)


def _summaries(rows: Floats) -> Floats:
    """Of a table each column and its distance from 0, of images each channel's mean and spread."""
    if rows.ndim == 2:
        near = np.clip(rows, -_FAR, _FAR)
        return np.concatenate([near, np.abs(near)], axis=1)
    flat = rows.reshape(*rows.shape[:2], -1) if rows.ndim > 3 else rows.reshape(len(rows), 1, -1)
    return np.concatenate([flat.mean(axis=2), flat.std(axis=2)], axis=1)


def _labels(targets: npt.NDArray[Any], site: Local) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The target as columns ``(n, columns)``, and which class each row is of ``(n, classes)``: one, where the target is no class."""
    if targets.ndim > 1 or not np.issubdtype(targets.dtype, np.integer):
        return np.asarray(targets, np.float64).reshape(len(targets), -1), np.ones((len(targets), 1), bool)
    shown = np.asarray(site.learner.predict(Samples(*site.data.batch(np.arange(1)))))
    member = targets[:, None] == np.arange(2 if shown.ndim == 1 else shown.shape[1])
    return member[:, 1:].astype(np.float64) if shown.ndim == 1 else member.astype(np.float64), member


def _told(counts: Floats, rows: float) -> Floats:
    """Counts of rows, fewer than ten, or all but fewer than ten, told as five of them; the others to the nearest five."""
    coarse = ROUNDING * np.round(counts / ROUNDING)
    coarse = np.where(counts < MINIMUM_CELL, ROUNDING, coarse)
    return np.asarray(np.where(rows - counts < MINIMUM_CELL, rows - ROUNDING, coarse))


def _cells(features: Floats, cells: Sequence[npt.NDArray[np.bool_]], patients: npt.NDArray[Any]) -> dict[str, Floats]:
    """Per cell rows, sums, squares and s²/n of the features, those of too few patients left out."""
    shape = (len(cells), features.shape[1])
    found = {"cells": np.zeros(len(cells)), "rows": np.zeros(len(cells)), **{name: np.zeros(shape) for name in ("sum", "squares", "between")}}
    for number, rows in enumerate(cells):
        if len(np.unique(patients[rows])) < MINIMUM_CELL:
            continue
        here = features[rows]
        found["cells"][number], found["rows"][number] = 1, len(here)
        found["sum"][number], found["squares"][number] = here.sum(axis=0), (here**2).sum(axis=0)
        found["between"][number] = found["sum"][number] ** 2 / len(here)
    return found


# the coordinator's half


@final
@dataclass(frozen=True, slots=True)
class Measured:
    """What a round's sums say. Shares are of the variance, 0 to 1; None where nothing can be said."""

    sites: int
    rows: int
    label_shift: float | None
    feature_shift: tuple[float, ...]
    """Per summary, in the order of the summaries: between sites, among all rows and also among rows of one class. So neither counts what only
    follows from other shares of the classes, nor what only follows from another answer to the same features."""
    answer_shift: tuple[float, ...]
    """Between sites among rows of one class, and not among all: the same features have another answer."""
    group_shift: tuple[float, ...]
    disagreement: float | None
    """D: 0 all one way, 1 they cancel."""
    dissimilarity: float | None
    """B² of FedProx, chance included."""
    size_spread: float
    """Coefficient of variation of the sites' rows."""
    step_spread: float
    """Of their steps a round."""
    has_running_means: bool


def measured(sums: Mapping[str, Tree]) -> Measured:
    """Raises BadUpdate where they are not the sums of this method."""
    rows = tree.scalar(sums["weight"], "rows")
    said = {name: tree.scalar(sums["setting"], name) for name in ("sites", "rows_squared", "steps", "steps_squared", "buffers")}
    labels = {name: tree.load(leaf) for name, leaf in sums["labels"].items()}
    label = _share(labels["between"], labels["squares"], labels["sum"][None] ** 2 / rows, rows, said["sites"] - 1)
    disagreement, dissimilarity = _disagreement(sums, rows)
    among_classes, among_all = _between_sites(sums["features"]), _between_sites(sums["columns"])
    return Measured(
        sites=int(said["sites"]),
        rows=int(rows),
        label_shift=None if label is None else float(label.mean()),
        feature_shift=tuple(map(min, among_classes, among_all)),
        answer_shift=tuple(max(0.0, one - other) for one, other in zip(among_classes, among_all, strict=False)),
        group_shift=_between_groups(sums["groups"]) if "groups" in sums else (),
        disagreement=disagreement,
        dissimilarity=dissimilarity,
        size_spread=_spread(said["sites"], rows, said["rows_squared"]),
        step_spread=_spread(said["sites"], said["steps"], said["steps_squared"]),
        has_running_means=said["buffers"] > 0,
    )


def _share(between: Floats, squares: Floats, common: Floats, rows: float, freedom: float) -> Floats | None:
    """ε² per column: ``common`` = S²/N per stratum ``(strata, columns)``; ``freedom`` = cells − strata. None where there is nothing to compare."""
    left = rows - freedom - len(common)
    if freedom < 1 or left < 1:
        return None
    total = squares - common.sum(axis=0)
    apart = between - common.sum(axis=0)
    share = (apart - freedom * (total - apart) / left) / np.where(total > 0, total, 1)
    return np.where(total > 1e-12 * np.maximum(squares, 1), np.clip(share, 0, 1), 0)


def _between_sites(sums: Tree) -> tuple[float, ...]:
    told = {name: tree.load(leaf) for name, leaf in sums.items()}
    there = told["rows"] > 0
    if not there.any():
        return ()
    common = told["sum"][there] ** 2 / told["rows"][there, None]
    freedom = told["cells"].sum() - there.sum()
    found = _share(told["between"].sum(axis=0), told["squares"].sum(axis=0), common, float(told["rows"].sum()), float(freedom))
    return () if found is None else tuple(map(float, found))


def _between_groups(sums: Tree) -> tuple[float, ...]:
    told = {name: tree.load(leaf) for name, leaf in sums.items()}
    if not told["rows"].any():
        return ()
    rows, summed = told["rows"], told["sum"]
    there = rows.sum(axis=1) > 0
    common = summed[there].sum(axis=1) ** 2 / rows[there].sum(axis=1)[:, None]
    between = np.divide(summed**2, rows[:, :, None], out=np.zeros_like(summed), where=rows[:, :, None] > 0).sum(axis=(0, 1))
    found = _share(between, told["squares"].sum(axis=(0, 1)), common, float(rows.sum()), float((rows > 0).sum() - there.sum()))
    return () if found is None else tuple(map(float, found))


def _disagreement(sums: Mapping[str, Tree], rows: float) -> tuple[float | None, float | None]:
    first, second = sums["first_half"], sums["second_half"]
    across, length = (tree.scalar(sums["agreement"], name) for name in ("across", "length"))
    common = sum(_dot(tree.load(first[name]), tree.load(second[name])) for name in first) / rows**2
    moved = sum(_dot(tree.load(sums["difference"][name]), tree.load(sums["difference"][name])) for name in first) / rows**2
    apart = None if across <= 0 else float(np.clip(1 - common * rows / across, 0, 1))
    return apart, None if moved <= 0 else length / rows / moved


def _spread(sites: float, total: float, squares: float) -> float:
    mean = total / sites
    return float(np.sqrt(max(squares / sites - mean**2, 0)) / mean)


EXAMPLE = Diagnosis(rounds=3)
