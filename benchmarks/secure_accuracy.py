"""What the rounding of a sum in secret changes: the same study with and without secure aggregation, of ten made-up hospitals.

PneumoniaMNIST's X-rays, shrunk to 7×7 pixels and divided at random; an MLP, FedAvg. The figures are of the 624 X-rays of the part "test", of which no
hospital has one; floor: without secure aggregation. Everything else is the same to the bit, so one run of each tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, roc_auc_score

from aimer2 import Study, simulate
from aimer2.core.random import stream
from aimer2.core.tree import Tree
from aimer2.study.partition import iid
from benchmarks.pneumonia import ABOUT
from benchmarks.rows import Row
from benchmarks.site_level import COHORT, xrays

NAME = "secure_accuracy"
SITES, ROUNDS = tuple(f"hospital-{number}" for number in range(10)), 20


def run() -> Iterator[Row]:
    tables, unseen = iid(xrays("train", "val"), SITES, rng=stream(1, "secure accuracy")), xrays("test")
    secret, clear = (simulate(study(privacy), tables).model for privacy in ({}, {"secure_aggregation": False, "why_not_secure": "to compare"}))
    ill, case = unseen["pneumonia"] == "yes", f"{len(SITES)} hospitals, {ROUNDS} rounds"
    told, floor = scores(secret, unseen), scores(clear, unseen)
    right = [100 * float(accuracy_score(ill, one > 0)) for one in (told, floor)]
    yield Row(NAME, f"{case}: accuracy; at most 0.1 points apart", right[0], "%", right[1])
    yield Row(NAME, f"{case}: AUC", 100 * float(roc_auc_score(ill, told)), "%", 100 * float(roc_auc_score(ill, floor)))
    apart = np.linalg.norm(flat(secret) - flat(clear)) / np.linalg.norm(flat(clear))
    yield Row(NAME, f"{case}: how far the models are apart, over their length", 1e6 * float(apart), "e-6")
    yield Row(NAME, f"{case}: the most that a score differs", 1e6 * float(np.abs(told - floor).max()), "e-6")


def study(privacy: dict[str, Any]) -> Study:
    return Study(
        **ABOUT,
        cohort=COHORT,
        model={"framework": "torch", "name": "mlp", "options": {"hidden": [32]}},
        training={"learning_rate": 0.1, "local_epochs": 1, "batch_size": 32},
        method={"name": "fedavg", "rounds": ROUNDS},
        sites={"names": SITES, "minimum": len(SITES)},
        evaluation={"held_out": 0},
        privacy=privacy,
    )


def scores(model: Tree, unseen: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The MLP in numpy."""
    (first, shift), (last, bias) = ((np.asarray(model[f"{layer}.weight"]), np.asarray(model[f"{layer}.bias"])) for layer in (0, 2))
    features = unseen.drop(columns="pneumonia").to_numpy() * 2 - 1
    found: np.ndarray[Any, np.dtype[np.float64]] = (np.maximum(features @ first.T + shift, 0) @ last.T + bias)[:, 0]
    return found


def flat(model: Tree) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.concatenate([np.asarray(model[name], np.float64).reshape(-1) for name in sorted(model)])
