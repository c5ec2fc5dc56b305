"""What it costs to protect whole hospitals: the same study of many made-up hospitals without differential privacy, and at smaller and smaller ε.

PneumoniaMNIST's 5,232 X-rays of the parts "train" and "val", shrunk to 7×7 pixels and divided at random; logistic regression of these 49 numbers.
Every round is a sum in secret with Skellam noise in it, under a clip norm that follows the median of the hospitals' lengths. The figure is the AUC
on the 624 X-rays of the part "test", of which no hospital has one, measured beside the study and without noise; floor: the same study without
differential privacy. The noise comes from the system's secure source, so no two runs are the same: mean over the runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import roc_auc_score

from aimer2 import Study, simulate
from aimer2.core.random import stream
from aimer2.study.partition import iid
from benchmarks.pneumonia import ABOUT
from benchmarks.rows import Row

CASES = ((20, (8.0,)), (50, (8.0, 3.0, 1.0)))
"""Hospitals, and ε of each at δ = 1e-5."""

RUNS = 3
SIDE = 7
COHORT: dict[str, Any] = {
    "dataset": "chest",
    "standardise": "range",
    "features": [{"name": f"pixel{number}", "minimum": 0, "maximum": 1} for number in range(SIDE**2)],
    "target": {"name": "pneumonia", "categories": ["no", "yes"]},
}


def run() -> Iterator[Row]:
    unseen = xrays("test")
    for sites, epsilons in CASES:
        names = [f"hospital-{number:02}" for number in range(sites)]
        tables = iid(xrays("train", "val"), names, rng=stream(1, "site level"))
        floor = measured(None, tables, unseen)
        for epsilon in epsilons:
            found = [measured(epsilon, tables, unseen) for _ in range(RUNS)]
            yield Row("site_level", f"{sites} hospitals, ε = {epsilon:g}: AUC", 100 * fmean(found), "%", 100 * floor)
            yield Row("site_level", f"{sites} hospitals, ε = {epsilon:g}: its spread over {RUNS} runs", 100 * stdev(found), "%")


def measured(epsilon: float | None, tables: dict[str, pd.DataFrame], unseen: pd.DataFrame) -> float:
    weights = simulate(study(epsilon, tuple(tables)), tables).model
    features = unseen.drop(columns="pneumonia").to_numpy() * 2 - 1
    return float(roc_auc_score(unseen["pneumonia"] == "yes", features @ weights["weight"][0] + weights["bias"][0]))


def study(epsilon: float | None, sites: tuple[str, ...]) -> Study:
    terms = {"level": "site", "epsilon": epsilon, "delta": 1e-5, "clip_norm": 0.5, "clip_quantile": 0.5}
    return Study(
        **ABOUT,
        cohort=COHORT,
        model={"name": "logistic"},
        training={"learning_rate": 0.5, "local_steps": 10, "batch_size": 32},
        method={"name": "fedavg", "rounds": 20},
        sites={"names": sites, "minimum": len(sites)},
        evaluation={"held_out": 0},
        privacy={"differential_privacy": terms} if epsilon else {},
    )


def xrays(*parts: str) -> pd.DataFrame:
    folder = Path(os.environ.get("AIMER2_DATA", Path(__file__).parents[2] / "shared" / "data"))
    with np.load(folder / "pneumoniamnist" / "pneumoniamnist.npz", allow_pickle=False) as archive:
        images, labels = (np.concatenate([archive[f"{part}_{name}"] for part in parts]) for name in ("images", "labels"))
    columns: dict[str, Any] = {f"pixel{number}": pixel for number, pixel in enumerate(_shrunk(images).T)}
    return pd.DataFrame(columns | {"pneumonia": pd.Categorical(np.where(labels[:, 0] == 1, "yes", "no"), ["no", "yes"])})


def _shrunk(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Each pixel the mean of a square, from 0 to 1."""
    step = images.shape[1] // SIDE
    means: npt.NDArray[np.float64] = images.reshape(-1, SIDE, step, SIDE, step).mean(axis=(2, 4)).reshape(len(images), -1) / 255
    return means
