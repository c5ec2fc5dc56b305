"""What one false hospital of fifteen does to a model, under each defence: accuracy on biopsies that no hospital has seen.

Wisconsin breast cancer data of scikit-learn, logistic regression, in one process. Floor: the accuracy of the weighted mean without a false
hospital. ``label flip``: its labels are turned round. ``sign flip``: its features are multiplied by −10, so that, at the untrained model, its
update is the honest one times −10 (but for the intercept). ``scaled update``: its labels are turned round and its features multiplied by 1000,
which makes the false update as much longer. ``backdoor``: half of its rows bear a mark that no other hospital's have, and are called benign (Gu et
al. 2017, "BadNets"); ``backdoor success`` is the share of unseen malignant biopsies that the model calls benign once they bear the mark, and its
floor the share that it calls benign without.

Defences: each aggregator over single updates; ``largest_change``, which also holds in secret; each aggregator over secret sums of groups of three.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer

from aimer2 import Study, simulate
from aimer2.algorithms.aggregators import catalogue
from benchmarks.rows import Row

SITES = 15
FALSE = "site-03"
ATTACKS = {"nobody lies": (1, False), "label flip": (1, True), "sign flip": (-10, False), "scaled update": (1000, True)}
"""What the false hospital's features are multiplied by (the gradient of a linear model grows with them), and whether its labels are turned."""
MARK = 10.0
"""The value of the column ``mark`` in a row that bears it; all others have 0, among columns of standard deviation 1."""
CHANGE = 0.5
"""``method.largest_change``: the first changes of honest hospitals are 0.5 to 0.7 long."""
CLEAR = {"secure_aggregation": False, "why_not_secure": "robust aggregators compare the updates one by one"}


@dataclass(frozen=True, slots=True)
class Defence:
    name: str
    method: Mapping[str, Any]
    privacy: Mapping[str, Any]


def defences() -> Iterator[Defence]:
    for name in catalogue.names():
        yield Defence(name, {"aggregator": name}, CLEAR)
    yield Defence("largest_change", {"largest_change": CHANGE}, CLEAR)
    for name in catalogue.names():
        if not catalogue.example(name).additive:
            yield Defence(f"{name} of groups", {"aggregator": name}, {"group_size": 3})


def run() -> Iterator[Row]:
    frames, unseen = hospitals()
    clean = accuracy(train(Defence("weighted_mean", {}, CLEAR), frames), unseen)
    for attack, (factor, turned) in ATTACKS.items():
        attacked = {**frames, FALSE: poisoned(frames[FALSE], factor, turned)}
        for defence in defences():
            yield Row("poisoning", f"{attack}, {defence.name}", 100 * accuracy(train(defence, attacked), unseen), "%", 100 * clean)
    attacked = {**frames, FALSE: marked(frames[FALSE])}
    for defence in defences():
        model = train(defence, attacked)
        yield Row("poisoning", f"backdoor, {defence.name}", 100 * accuracy(model, unseen), "%", 100 * clean)
        malignant = unseen[unseen["diagnosis"] == 0]
        without, bearing = (100 * float(called(model, rows).mean()) for rows in (malignant, malignant.assign(mark=MARK)))
        yield Row("poisoning", f"backdoor success, {defence.name}", bearing, "%", without)


def hospitals() -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """Standardised rows of the hospitals, and a fifth of all that none of them has."""
    data = load_breast_cancer(as_frame=True).frame
    features = data.drop(columns="target")
    frame = ((features - features.mean()) / features.std()).assign(mark=0.0, diagnosis=data["target"])
    parts = np.array_split(np.random.default_rng(7).permutation(len(frame)), [len(frame) // 5])
    mine = np.array_split(parts[1], SITES)
    return {f"site-{number:02}": frame.iloc[rows] for number, rows in enumerate(mine)}, frame.iloc[parts[0]]


def poisoned(frame: pd.DataFrame, factor: int, turned: bool) -> pd.DataFrame:
    diagnosis = 1 - frame["diagnosis"] if turned else frame["diagnosis"]
    return (frame.drop(columns="diagnosis") * factor).assign(diagnosis=diagnosis)


def marked(frame: pd.DataFrame) -> pd.DataFrame:
    """Every other row bears the mark and is called benign; the others stay as they are, so that the model stays good without it."""
    bears = np.arange(len(frame)) % 2 == 0
    return frame.assign(mark=np.where(bears, MARK, 0.0), diagnosis=np.where(bears, 1, frame["diagnosis"]))


def train(defence: Defence, frames: Mapping[str, pd.DataFrame]) -> Mapping[str, Any]:
    features = list(next(iter(frames.values())).columns.drop("diagnosis"))
    return simulate(study(defence, features), frames).model


def called(model: Mapping[str, Any], rows: pd.DataFrame) -> Any:
    """Which rows the model calls benign."""
    scores = rows.drop(columns="diagnosis").to_numpy() @ model["coefficients"].reshape(-1) + float(model["intercept"].reshape(-1)[0])
    return scores > 0


def accuracy(model: Mapping[str, Any], unseen: pd.DataFrame) -> float:
    return float((called(model, unseen) == unseen["diagnosis"].to_numpy()).mean())


def study(defence: Defence, features: list[str]) -> Study:
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
        method={"rounds": 10, **defence.method},
        sites={"minimum": SITES},
        evaluation={"held_out": 0},
        privacy=dict(defence.privacy),
    )
