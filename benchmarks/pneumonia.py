"""Chest X-rays over hospitals that differ: methods against kinds of heterogeneity.

1,800 of PneumoniaMNIST's 5,856 X-rays (28×28, of one hospital; each is taken for a patient) divided over five made-up hospitals: at random, by
skewed labels (Dirichlet 0.3), with made-up scanners (each hospital's own gain, gamma and noise), and by both. A cnn of 2 blocks, 10 rounds of one
pass, a fifth held out; three seeds. Floor: FedAvg in the same setting. `docs/benchmarks/pneumonia.csv` is written, and the figure beside it where
matplotlib is installed.
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from aimer2 import Study, simulate
from aimer2.algorithms import catalogue
from aimer2.connectors.table import Column, Table, pseudonyms
from aimer2.core import tree
from aimer2.core.dataset import Samples
from aimer2.core.protocols import Local
from aimer2.core.random import stream
from aimer2.learners.catalogue import make_learner
from aimer2.study import partition
from aimer2.study.events import RoundFinished
from benchmarks.rows import Row

SITES = tuple(f"hospital-{number}" for number in range(1, 6))
IMAGE = {"name": "xray", "height": 28, "width": 28}
ROUNDS = 10
IMAGES = 1_800
SEEDS = (1, 2, 3)
TARGET = 0.93
"""The pooled AUC that rounds are counted to."""

SCANNERS = {"gain": (0.5, 1.0), "gamma": (0.5, 2.0), "noise": (0.0, 0.12)}
"""Ranges from which a hospital's scanner is drawn; noise in shares of white."""

METHODS: Mapping[str, Mapping[str, Any]] = {
    "fedavg": {},
    "fedprox": {"mu": 0.1},
    "scaffold": {},
    "feddyn": {"alpha": 0.05},
    "fedadam": {"server_learning_rate": 0.02},
    "fedbn": {},
}
SETTINGS = {"alike": (False, False), "labels": (True, False), "scanners": (False, True), "both": (True, True)}


@dataclass(frozen=True, slots=True)
class Line:
    """One run. ``worst_accuracy``: of the hospital that the model serves worst, to two digits; ``rounds_to_target`` 0: not reached; bytes of one
    site and round."""

    setting: str
    method: str
    seed: int
    auc: float
    accuracy: float
    worst_accuracy: float
    rounds_to_target: int
    bytes_down: int
    bytes_up: int
    cpu_seconds: float


def run() -> Iterator[Row]:
    lines = []
    for setting in SETTINGS:
        for method in METHODS:
            lines += [measured(setting, method, seed) for seed in SEEDS]
            mine, floor = (means([line for line in lines if (line.setting, line.method) == (setting, name)]) for name in (method, "fedavg"))
            for name in ("auc", "worst_accuracy", "accuracy"):
                yield Row("pneumonia", f"{setting}, {method}: {name}", 100 * mine[name], "%", 100 * floor[name])
            yield Row("pneumonia", f"{setting}, {method}: round", mine["cpu_seconds"] / ROUNDS, "s", floor["cpu_seconds"] / ROUNDS)
    write(lines, Path(__file__).parents[1] / "docs" / "benchmarks")


def means(lines: Sequence[Line]) -> dict[str, float]:
    return {name: fmean(getattr(line, name) for line in lines) for name in ("auc", "worst_accuracy", "accuracy", "cpu_seconds")}


def measured(setting: str, method: str, seed: int) -> Line:
    asked, tables = study(method, seed), hospitals(*SETTINGS[setting], seed)
    began = time.process_time()
    done = simulate(asked, tables, workers=1)
    spent = time.process_time() - began
    pooled = {figure.name: figure.value for figure in done.figures}
    personal = "kept auc" in pooled
    rounds = [event for event in done.events if isinstance(event, RoundFinished) and event.figures]
    reached = [number for number, event in enumerate(rounds) if _value(event, "auc") >= TARGET]
    worst = min(_own(figures) for figures in done.result["released"].values())
    down, up = travels(asked)
    auc, accuracy = (float(pooled[f"kept {name}" if personal else name] or 0) for name in ("auc", "accuracy"))
    return Line(setting, method, seed, auc, accuracy, worst, reached[0] if reached else 0, down, up, round(spent, 2))


def _value(event: RoundFinished, name: str) -> float:
    return next((figure.value or 0.0 for figure in event.figures if figure.name == name), 0.0)


def _own(figures: Sequence[Mapping[str, Any]]) -> float:
    """The accuracy at one hospital; of a personal method that of the model it keeps."""
    told = {figure["name"]: figure["value"] for figure in figures}
    return float(told.get("kept accuracy", told["accuracy"]))


ABOUT: Mapping[str, Any] = MappingProxyType(
    {
        "name": "pneumonia",
        "question": "Which of these chest X-rays of children show a pneumonia?",
        "purpose": "A benchmark on public data",
        "ethics": "none needed: public data",
        "principal_investigator": "Benchmarks",
        "expires": "2100-01-01",
    }
)
"""What a study of these pictures says of itself."""


def study(method: str, seed: int) -> Study:
    return Study(
        **ABOUT,
        seed=seed,
        cohort={"dataset": "chest", "image": IMAGE, "target": {"name": "pneumonia", "categories": ["no", "yes"]}},
        model={"name": "cnn", "options": {"channels": [8, 16], "batch_norm": method == "fedbn"}},
        training={"learning_rate": 0.2, "batch_size": 16, "local_epochs": 1},
        method={"name": method, "rounds": ROUNDS, "parameters": METHODS[method]},
        sites={"names": SITES, "minimum": len(SITES)},
        evaluation={"held_out": 0.2, "metrics": ["auc", "accuracy"], "release_per_site": True},
        privacy={"secure_aggregation": False, "why_not_secure": "a benchmark in one process"},
    )


def hospitals(labels: bool, scanners: bool, seed: int) -> dict[str, Table]:
    images, pneumonia = chest()
    frame, rng = pd.DataFrame({"pneumonia": pneumonia}), stream(seed, "pneumonia", "hospitals")
    parts = partition.dirichlet(frame, SITES, alpha=0.3, rng=rng, label="pneumonia", minimum=40) if labels else partition.iid(frame, SITES, rng=rng)
    tables = {}
    for site, part in parts.items():
        rows = part.index.to_numpy()
        own = scanned(images[rows], seed, site) if scanners else images[rows]
        columns = {"xray": Column("image", own[:, None]), "pneumonia": Column("category", pneumonia[rows], ("no", "yes"))}
        tables[site] = Table(columns, pseudonyms([f"{row}" for row in rows], bytes(16)))
    return tables


def scanned(images: npt.NDArray[np.uint8], seed: int, site: str) -> npt.NDArray[np.uint8]:
    """As this hospital's scanner shows them: gain · x^gamma + noise, of x from 0 to 1."""
    rng = stream(seed, "pneumonia", "scanner", site)
    gain, gamma, noise = (rng.uniform(*SCANNERS[name]) for name in ("gain", "gamma", "noise"))
    seen = gain * (images / 255) ** gamma + noise * rng.standard_normal(images.shape)
    return np.rint(255 * np.clip(seen, 0, 1)).astype(np.uint8)


def chest() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    folder = Path(os.environ.get("AIMER2_DATA", Path(__file__).parents[2] / "shared" / "data"))
    with np.load(folder / "pneumoniamnist" / "pneumoniamnist.npz", allow_pickle=False) as archive:
        images, labels = (np.concatenate([archive[f"{part}_{name}"] for part in ("train", "val", "test")]) for name in ("images", "labels"))
    chosen = stream(0, "pneumonia", "images").permutation(len(images))[:IMAGES]
    return images[chosen], labels[chosen, 0].astype(np.int32)


def travels(asked: Study) -> tuple[int, int]:
    """Bytes of the arrays that one site receives and sends in a round, the evaluation aside."""
    learner = make_learner(asked, feature_shape=(1, 28, 28), files={})
    method: Any = catalogue.make(asked.method.name, asked.method.rounds, asked.method.parameters)
    received = method.broadcast(method.init(learner.parameters()))
    rows = Samples(np.random.default_rng(0).random((4, 1, 28, 28)), np.array([0, 1, 0, 1]))
    site = Local(data=rows, learner=learner, memory={}, rng=stream(1), round_number=1, steps=1, batch_size=4)
    sent = method.local(received, site).sums
    return tuple(sum(tree.load(leaf).nbytes for part in trees.values() for leaf in part.values()) for trees in (received, sent))  # type: ignore[return-value]


def write(lines: Sequence[Line], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with open(folder / "pneumonia.csv", "w", encoding="utf-8", newline="") as file:
        written = csv.writer(file, lineterminator="\n")
        written.writerow([field.name for field in fields(Line)])
        written.writerows([f"{value:.4f}" if isinstance(value, float) else value for value in astuple(line)] for line in lines)
    if importlib.util.find_spec("matplotlib"):
        draw(lines, folder / "pneumonia.svg")


def draw(lines: Sequence[Line], path: Path) -> None:
    """Pooled AUC as bars from the least to the greatest of the seeds, the accuracy at the worst served hospital as dots; a panel per setting."""
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "pneumonia"
    figure, panels = importlib.import_module("matplotlib.pyplot").subplots(1, len(SETTINGS), figsize=(11, 3.2), sharey=True)
    for panel, setting in zip(panels, SETTINGS, strict=True):
        runs = [[line for line in lines if (line.setting, line.method) == (setting, method)] for method in METHODS]
        found = [means(of_method) for of_method in runs]
        aucs = [[100 * line.auc for line in of_method] for of_method in runs]
        spread = [[fmean(auc) - min(auc) for auc in aucs], [max(auc) - fmean(auc) for auc in aucs]]
        panel.bar(range(len(found)), [fmean(auc) for auc in aucs], yerr=spread, capsize=3, color="#9db8d9", label="AUC, all hospitals")
        panel.plot(range(len(found)), [100 * mean["worst_accuracy"] for mean in found], "o", color="#b03a2e", label="accuracy, the worst served")
        panel.set_title(setting)
        panel.set_xticks(range(len(found)), list(METHODS), rotation=60)
        panel.set_ylim(0, 100)
    panels[0].set_ylabel("the last model, %")
    panels[-1].legend(loc="lower right", fontsize=8)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
