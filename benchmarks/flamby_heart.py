"""FLamby Fed-Heart-Disease: logistic regression at four hospitals, by FLamby's protocol; accuracy in %, floor: the published figure.

Rows without a gap in ten findings; chest pain and resting ECG as indicators, their first level left out; 66 % of a hospital's patients to train
on; columns standardised by the hospital's own training rows (pooled: by all hospitals'). Batches of 4, 15 rounds of 100 steps; pooled and
local: 50 passes of Adam.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.model_selection import train_test_split

from aimer2.core.dataset import Samples
from aimer2.core.tree import Tree
from benchmarks import flamby
from benchmarks.flamby import Strategy, Task, logits
from benchmarks.rows import Row

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
ADAPTIVE = {"beta_1": 0.9, "beta_2": 0.999, "tau": 1e-8}
STRATEGIES = {
    "FedAvg": Strategy("fedavg", 0.001),
    "FedProx": Strategy("fedprox", 0.001, {"mu": 0.01}),
    "SCAFFOLD": Strategy("scaffold", 0.001),
    "FedAdam": Strategy("fedadam", 0.01, ADAPTIVE | {"server_learning_rate": 0.01}),
    "FedYogi": Strategy("fedyogi", 0.003162, ADAPTIVE | {"server_learning_rate": 0.01}),
    "FedAdagrad": Strategy("fedadagrad", 0.003162, {"beta_1": 0.9, "tau": 1e-8, "server_learning_rate": 0.316228}),
    "Cyclic": Strategy("cyclic_weight_transfer", 0.01),
}

Table = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def run() -> Iterator[Row]:
    for line in table().itertuples():
        yield Row("flamby_heart", f"{line.method}, test {line.test}", line.mean, "%", line.published)


def table() -> pd.DataFrame:
    return flamby.table(task(folder()))


def folder() -> Path:
    return Path(os.environ.get("AIMER2_DATA", Path(__file__).parents[2] / "shared" / "data")) / "heart-disease-4sites"


def task(files: Path) -> Task:
    parts = prepared(files)
    everything = [_stack([part[side] for part in parts]) for side in (0, 1)]
    centred = {str(number): (_standardised(train, train), _standardised(test, train)) for number, (train, test) in enumerate(parts)}
    return Task(
        name="fed_heart_disease",
        train={site: train for site, (train, _) in centred.items()},
        test={site: test for site, (_, test) in centred.items()},
        pooled=(_standardised(everything[0], everything[0]), _standardised(everything[1], everything[0])),
        target={"name": "disease"},
        model="logistic",
        ties=None,
        batch_size=4,
        epochs=50,
        learning_rate=0.001,
        strategies=STRATEGIES,
        score=accuracy,
    )


def prepared(files: Path) -> list[tuple[Table, Table]]:
    """Per hospital the rows to train on and those to test on, not yet standardised."""
    frames = [pd.read_csv(files / f"processed.{name}.data", header=None, na_values="?").drop(columns=[10, 11, 12]).dropna() for name in HOSPITALS]
    encoded = pd.get_dummies(pd.concat(frames, keys=HOSPITALS), columns=[2, 6], drop_first=True)
    parts = []
    for name in HOSPITALS:
        frame = encoded.loc[name]
        disease = (frame[13] > 0).to_numpy().astype(np.int64)
        features = frame.drop(columns=13).to_numpy(np.float32)
        rare = min(np.bincount(disease, minlength=2)) <= 2
        train, test = train_test_split(
            np.arange(len(frame)), test_size=1 - 0.66, train_size=0.66, random_state=43, stratify=None if rare else disease
        )
        # as FLamby keeps them: in the order of the file
        sides = [(features[rows], disease[rows]) for rows in (np.sort(train), np.sort(test))]
        parts.append((sides[0], sides[1]))
    return parts


def accuracy(model: Tree, rows: Samples) -> float:
    return float(((logits(model, rows) > 0) == (rows.targets == 1)).mean())


def _stack(parts: list[Table]) -> Table:
    return np.concatenate([features for features, _ in parts]), np.concatenate([disease for _, disease in parts])


def _standardised(rows: Table, by: Table) -> Samples:
    mean, deviation = by[0].mean(axis=0), by[0].std(axis=0, ddof=1)
    return Samples((rows[0] - mean) / (deviation + np.float32(1e-9)), rows[1])
