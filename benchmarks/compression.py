"""Accuracy against bytes: what each compression does to a model's AUC, and how many bytes a site sends and gets in a round.

Chest X-rays of children (PneumoniaMNIST, 28 × 28 points in a row, 4,708 for training) dealt to five hospitals; a perceptron of 25,121 numbers, 10
rounds of one pass, in one process, three seeds. AUC on patients held out at the hospitals. ``up``: the bytes of a site's answer, its figures (about
17 kB) among them. ``down``: of what its task offers, with ``downlink = "changes"``. Floor: without compression, in the clear or in secret.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from aimer2 import Study, simulate
from aimer2.core.dataset import Samples
from aimer2.study.events import RoundFinished
from benchmarks.rows import Row

SITES, ROUNDS, SEEDS = 5, 10, (1, 2, 3)
IN_THE_CLEAR: Mapping[str, Mapping[str, Any]] = {
    "random_k 0.5": {"name": "random_k", "parameters": {"fraction": 0.5}},
    "random_k 0.1": {"name": "random_k", "parameters": {"fraction": 0.1}},
    "random_k 0.02": {"name": "random_k", "parameters": {"fraction": 0.02}},
    "top_k 0.05": {"name": "top_k", "parameters": {"fraction": 0.05}},
    "top_k 0.01": {"name": "top_k", "parameters": {"fraction": 0.01}},
    "stochastic_quantisation 8": {"name": "stochastic_quantisation", "parameters": {"bits": 8}},
    "stochastic_quantisation 4": {"name": "stochastic_quantisation", "parameters": {"bits": 4}},
    "half_precision": {"name": "half_precision"},
}
IN_SECRET = {name: IN_THE_CLEAR[name] for name in ("random_k 0.5", "random_k 0.1")}


def run() -> Iterator[Row]:
    for secret, variants in ((False, IN_THE_CLEAR), (True, IN_SECRET)):
        place = "secret" if secret else "clear"
        auc, up, down = measured({}, secret)
        yield from _rows(f"{place}, none", (auc, up, down), (None, None, None))
        plain = measured({"downlink": "changes"}, secret)
        yield Row("compression", f"{place}, none, changes: down", plain[2], "kB", down)
        for name, compression in variants.items():
            yield from _rows(f"{place}, {name}", measured({"compression": compression, "downlink": "changes"}, secret), (auc, up, down))


def _rows(case: str, values: tuple[float, float, float], floors: tuple[float | None, float | None, float | None]) -> Iterator[Row]:
    for what, unit, value, floor in zip(("AUC", "up", "down"), ("%", "kB", "kB"), values, floors, strict=True):
        yield Row("compression", f"{case}: {what}", value, unit, floor)


def measured(method: Mapping[str, Any], secret: bool) -> tuple[float, float, float]:
    """AUC in percent, kB from and to a site per training round, means over the seeds."""
    found = [_once(method, secret, seed) for seed in SEEDS]
    auc, up, down = (mean(values) for values in zip(*found, strict=True))
    return auc, up, down


def _once(method: Mapping[str, Any], secret: bool, seed: int) -> tuple[float, float, float]:
    result = simulate(study(method, secret, seed), hospitals())
    auc = next(figure.value for figure in result.figures if figure.name == "auc")
    rounds = [event for event in result.events if isinstance(event, RoundFinished) and event.stage == "train"]
    per = SITES * len(rounds) * 1000
    return 100 * (auc or 0.0), sum(event.bytes_received for event in rounds) / per, sum(event.bytes_sent for event in rounds) / per


def hospitals() -> dict[str, Samples]:
    folder = Path(os.environ.get("AIMER2_DATA", Path(__file__).parents[2] / "shared" / "data")) / "pneumoniamnist"
    with np.load(folder / "pneumoniamnist.npz") as held:
        images, labels = held["train_images"], held["train_labels"]
    rows = (images.reshape(len(images), -1).astype(np.float32) / 255 - 0.5) * 2
    parts = np.array_split(np.random.default_rng(7).permutation(len(rows)), SITES)
    return {f"site-{number}": Samples(rows[part], labels[part].reshape(-1).astype(np.int64)) for number, part in enumerate(parts)}


def study(method: Mapping[str, Any], secret: bool, seed: int) -> Study:
    clear = {"secure_aggregation": False, "why_not_secure": "most compressions do not add up"}
    return Study(
        name="compression",
        question="What do fewer bytes cost?",
        purpose="benchmark",
        ethics="none needed: published, anonymous data",
        principal_investigator="Benchmark Person",
        expires="2090-01-01",
        seed=seed,
        cohort={"dataset": "x-rays", "features": [{"name": "points"}], "target": {"name": "pneumonia"}},
        model={"name": "mlp", "options": {"hidden": [32]}},
        training={"learning_rate": 0.05, "batch_size": 32},
        method={"rounds": ROUNDS, **method},
        sites={"minimum": SITES},
        privacy={} if secret else clear,
    )
