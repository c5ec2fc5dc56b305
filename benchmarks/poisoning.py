"""What one false hospital of seven does to a model, under each aggregator: accuracy on biopsies that no hospital has seen.

Wisconsin breast cancer data of scikit-learn, logistic regression, in one process. Floor: the accuracy of the weighted mean without a false
hospital. ``label flip``: its labels are turned round. ``sign flip``: its features are multiplied by −10, so that, at the untrained model, its
update is the honest one times −10 (but for the intercept). ``scaled update``: its labels are turned round and its features multiplied by 1000,
which makes the false update as much longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer

from aimer2 import Study, simulate
from aimer2.algorithms.aggregators import catalogue
from benchmarks.rows import Row

SITES = 7
ATTACKS = {"nobody lies": (1, False), "label flip": (1, True), "sign flip": (-10, False), "scaled update": (1000, True)}
"""What the false hospital's features are multiplied by (the gradient of a linear model grows with them), and whether its labels are turned."""


def run() -> Iterator[Row]:
    frames, unseen = hospitals()
    clean = accuracy("weighted_mean", frames, unseen)
    for attack, (factor, turned) in ATTACKS.items():
        attacked = {**frames, "site-3": poisoned(frames["site-3"], factor, turned)}
        for name in catalogue.names():
            yield Row("poisoning", f"{attack}, {name}", 100 * accuracy(name, attacked, unseen), "%", 100 * clean)


def hospitals() -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Standardised rows of seven hospitals, and a fifth of all that none of them has."""
    data = load_breast_cancer(as_frame=True).frame
    features = data.drop(columns="target")
    frame = ((features - features.mean()) / features.std()).assign(diagnosis=data["target"])
    parts = np.array_split(np.random.default_rng(7).permutation(len(frame)), [len(frame) // 5])
    mine = np.array_split(parts[1], SITES)
    return {f"site-{number}": frame.iloc[rows] for number, rows in enumerate(mine)}, frame.iloc[parts[0]]


def poisoned(frame: pd.DataFrame, factor: int, turned: bool) -> pd.DataFrame:
    diagnosis = 1 - frame["diagnosis"] if turned else frame["diagnosis"]
    return (frame.drop(columns="diagnosis") * factor).assign(diagnosis=diagnosis)


def accuracy(aggregator: str, frames: Mapping[str, pd.DataFrame], unseen: pd.DataFrame) -> float:
    features = unseen.drop(columns="diagnosis")
    model = simulate(study(aggregator, list(features.columns)), frames).model
    scores = features.to_numpy() @ model["coefficients"].reshape(-1) + float(model["intercept"].reshape(-1)[0])
    return float(((scores > 0) == unseen["diagnosis"].to_numpy()).mean())


def study(aggregator: str, features: list[str]) -> Study:
    cohort: dict[str, Any] = {
        "dataset": "biopsies",
        "features": [{"name": name} for name in features],
        "target": {"name": "diagnosis"},
        "standardise": "none",
    }
    return Study(
        name="poisoning",
        question="What does one false hospital do to the model?",
        purpose="benchmark",
        ethics="none needed: published, anonymous data",
        principal_investigator="Benchmark Person",
        expires="2090-01-01",
        cohort=cohort,
        model={"framework": "numpy", "name": "logistic"},
        training={"learning_rate": 0.3, "local_epochs": 1, "batch_size": 16},
        method={"rounds": 10, "aggregator": aggregator},
        sites={"minimum": SITES},
        evaluation={"held_out": 0},
        privacy={"secure_aggregation": False, "why_not_secure": "robust aggregators compare the updates one by one"},
    )
