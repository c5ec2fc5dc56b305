"""FLamby Fed-TCGA-BRCA: Cox regression at six regions, by FLamby's protocol; concordance in %, floor: the published figure.

39 columns as they are (ages in days are not standardised, hence the spread between seeds); FLamby's own split. The partial likelihood is that of
each batch of 8, ties by Breslow; 5 rounds of 100 steps; pooled and local: 30 passes of Adam. A region's concordance rests on its own pairs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from aimer2.core.dataset import Samples
from aimer2.core.tree import Tree
from aimer2.metrics.survival import NO_TIMELINE, pair_sums
from benchmarks import flamby
from benchmarks.flamby import Strategy, Task, logits
from benchmarks.rows import Row

REGIONS = 6
ADAPTIVE = {"beta_1": 0.9, "beta_2": 0.999, "tau": 1e-8}
STRATEGIES = {
    "FedAvg": Strategy("fedavg", 0.1),
    "FedProx": Strategy("fedprox", 0.1, {"mu": 0.1}),
    "SCAFFOLD": Strategy("scaffold", 0.01),
    "FedAdam": Strategy("fedadam", 0.01, ADAPTIVE | {"server_learning_rate": 0.1}),
    "FedYogi": Strategy("fedyogi", 0.01, ADAPTIVE | {"server_learning_rate": 0.1}),
    "FedAdagrad": Strategy("fedadagrad", 0.01, {"beta_1": 0.9, "tau": 1e-8, "server_learning_rate": 1.0}),
    "Cyclic": Strategy("cyclic_weight_transfer", 0.01),
}


def run() -> Iterator[Row]:
    for line in table().itertuples():
        yield Row("flamby_tcga", f"{line.method}, test {line.test}", line.mean, "%", line.published)


def table() -> pd.DataFrame:
    return flamby.table(task(folder()))


def folder() -> Path:
    return Path(os.environ.get("AIMER2_DATA", Path(__file__).parents[2] / "shared" / "data")) / "tcga-brca-6regions"


def task(files: Path) -> Task:
    whole = pd.read_csv(files / "brca.csv")
    fold = pd.read_csv(files / "train_test_split.csv")

    def rows(column: str, name: str) -> Samples:
        frame = whole[whole["pid"].isin(fold["pid"][fold[column] == name])]
        return Samples(frame.iloc[:, 1:40].to_numpy(np.float32), frame[["T", "E"]].to_numpy(np.float32))

    return Task(
        name="fed_tcga_brca",
        train={str(region): rows("fold2", f"train_{region}") for region in range(REGIONS)},
        test={str(region): rows("fold2", f"test_{region}") for region in range(REGIONS)},
        pooled=(rows("fold", "train"), rows("fold", "test")),
        target={"name": "time", "kind": "survival", "event": "death"},
        model="linear",
        ties="breslow",
        batch_size=8,
        epochs=30,
        learning_rate=0.1,
        strategies=STRATEGIES,
        score=concordance,
    )


def concordance(model: Tree, rows: Samples) -> float:
    comparable, concordant, *_ = pair_sums(logits(model, rows).astype(np.float64), rows.targets, NO_TIMELINE)
    return float(concordant / comparable)
