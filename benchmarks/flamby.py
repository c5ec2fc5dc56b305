"""The FLamby benchmarks: their strategies by their protocol, as AIMER2 studies, beside the published figures.

J. Ogier du Terrail et al., "FLamby: Datasets and Benchmarks for Cross-Silo Federated Learning in Realistic Healthcare Settings", NeurIPS 2022
Datasets and Benchmarks; protocol and published figures (``benchmarks/published``) of the repository owkin/FLamby, commit edacf54.

A strategy starts from the weights that torch draws for the seed, trains 100 steps of SGD per site and round, and is scored on each site's test
rows and on all of them. "Pooled" and "Local k" train one model on all rows, or on those of one site, by Adam: here a study of one site and one
round. FLamby goes on through its batches from one round to the next, and draws them from torch; AIMER2 shuffles anew in every round, from the
study's seed: so single seeds differ, and their mean must not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from aimer2 import Study, simulate
from aimer2.blobs.memory import MemoryStore
from aimer2.core.dataset import Samples
from aimer2.core.tree import Tree
from aimer2.study.checkpoint import store

SEEDS = (42, 43, 44, 45, 46)
STEPS = 100
PUBLISHED = Path(__file__).parent / "published"
MEAN, POOLED = "mean", "pooled"


@dataclass(frozen=True, slots=True)
class Strategy:
    """One line of the table: a method with its hyper-parameters, and the sites' learning rate."""

    method: str
    learning_rate: float
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """A FLamby data set with its protocol. Sites are named by their numbers; ``pooled``: all rows as FLamby prepares them together."""

    name: str
    train: Mapping[str, Samples]
    test: Mapping[str, Samples]
    pooled: tuple[Samples, Samples]
    target: Mapping[str, Any]
    model: str
    ties: str | None
    batch_size: int
    epochs: int
    learning_rate: float
    """Of Adam, for the models that no federation trains."""
    strategies: Mapping[str, Strategy]
    score: Callable[[Tree, Samples], float]

    @property
    def rounds(self) -> int:
        rows = sum(map(len, self.train.values()))
        return rows // len(self.train) // self.batch_size * self.epochs // STEPS

    @property
    def lines(self) -> tuple[str, ...]:
        return ("Pooled", *self.strategies, *(f"Local {site}" for site in self.train))


def table(task: Task, seeds: Sequence[int] = SEEDS, lines: Sequence[str] | None = None) -> pd.DataFrame:
    """Per line and test set the mean and the standard deviation (n − 1) over the seeds, ours and the published ones."""
    ours = pd.DataFrame([told for line in lines or task.lines for seed in seeds for told in scored(task, line, seed)])
    return _summary(ours).merge(_summary(published(task)).rename(columns={"mean": "published", "sd": "published_sd"}), how="left")


def published(task: Task) -> pd.DataFrame:
    """FLamby's own scores in %: method, test, seed, score; the mean over the sites too."""
    wide = pd.read_csv(PUBLISHED / f"{task.name}.csv", dtype={"test": str})
    told = wide.melt(["method", "test"], var_name="seed", value_name="score").astype({"seed": int})
    mean = told[told["test"] != POOLED].groupby(["method", "seed"], as_index=False)["score"].mean().assign(test=MEAN)
    return pd.concat([told, mean], ignore_index=True)


def _summary(scores: pd.DataFrame) -> pd.DataFrame:
    return scores.groupby(["method", "test"], sort=False)["score"].agg(["mean", "std"]).reset_index().rename(columns={"std": "sd"})


def scored(task: Task, line: str, seed: int) -> list[dict[str, Any]]:
    """The scores in % of one line and seed on every test set."""
    model = trained(task, line, seed)
    scores = {site: 100 * task.score(model, rows) for site, rows in task.test.items()}
    scores |= {MEAN: sum(scores.values()) / len(scores), POOLED: 100 * task.score(model, task.pooled[1])}
    return [{"method": line, "test": test, "seed": seed, "score": score} for test, score in scores.items()]


def trained(task: Task, line: str, seed: int) -> Tree:
    """The model of one line and seed."""
    if line in task.strategies:
        strategy, rows = task.strategies[line], task.train
        training: dict[str, Any] = {"learning_rate": strategy.learning_rate, "local_steps": STEPS}
        method: dict[str, Any] = {"name": strategy.method, "rounds": task.rounds, "parameters": strategy.parameters}
    else:
        rows = {"alone": task.pooled[0] if line == "Pooled" else task.train[line.removeprefix("Local ")]}
        training = {"optimiser": "adam", "learning_rate": task.learning_rate, "local_epochs": task.epochs}
        method = {"name": "fedavg", "rounds": 1}
    sites = {f"site-{name}": samples for name, samples in rows.items()}
    features = next(iter(rows.values())).feature_shape[0]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "start.safetensors").write_bytes(start(features, seed))
        asked = study(task, training | {"batch_size": task.batch_size, "ties": task.ties}, method, seed, len(sites))
        return simulate(asked, sites, folder=Path(folder)).model


def start(features: int, seed: int) -> bytes:
    """The weights that torch draws for one linear layer, as a file."""
    torch.manual_seed(seed)
    layer = torch.nn.Linear(features, 1)
    blobs = MemoryStore()
    weights = {"weight": layer.weight.detach().numpy(), "bias": layer.bias.detach().numpy()}
    return bytes(blobs.open(store(weights, blobs)).view())


def study(task: Task, training: Mapping[str, Any], method: Mapping[str, Any], seed: int, sites: int) -> Study:
    return Study(
        name=task.name.replace("_", "-"),
        question="Do the published figures come out again?",
        purpose="A benchmark on public data",
        ethics="none needed: public data",
        principal_investigator="Benchmarks",
        expires="2100-01-01",
        seed=seed,
        cohort={"dataset": "flamby", "features": [{"name": "x"}], "target": task.target},
        model={"framework": "torch", "name": task.model, "weights": "start.safetensors"},
        training=training,
        method=method,
        sites={"minimum": sites},
        evaluation={"held_out": 0},
        privacy={"secure_aggregation": False, "why_not_secure": "the published benchmark adds in the clear"},
    )


def logits(model: Tree, rows: Samples) -> npt.NDArray[np.float32]:
    outputs: npt.NDArray[np.float32] = rows.features @ model["weight"].reshape(-1) + model["bias"].reshape(-1)
    return outputs
