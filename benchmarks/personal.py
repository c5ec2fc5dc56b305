"""Per hospital: the common model, the one that the hospital keeps, and (floor) the one that it trained alone; accuracy on held-out patients.

UCI heart disease at four hospitals (logistic regression of ten findings), and Wisconsin breast cancer divided by tumour size at three, so that
hospitals differ; 20 rounds of 5 steps, in one process. A hospital's figures are released by the study and have two digits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.datasets import load_breast_cancer

from aimer2 import Study, simulate
from benchmarks.rows import Row

METHODS: Mapping[str, Mapping[str, Any]] = {
    "ditto": {"lambda_": 0.5},
    "local_fine_tuning": {"fine_tuning_steps": 20},
    "fedper": {"head": "intercept"},
    "fedrep": {"head": "intercept", "head_steps": 5},
}
HEART = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal", "target")
READ = (*HEART[:10], "target")


def run() -> Iterator[Row]:
    for data, frames in {"heart": heart(), "biopsies": biopsies()}.items():
        for method, parameters in METHODS.items():
            result = simulate(study(method, parameters, frames), frames)
            pooled = {figure.name: figure.value for figure in result.figures}
            yield from _rows(f"{data}, {method}, all", pooled)
            for site, figures in result.result["released"].items():
                yield from _rows(f"{data}, {method}, {site}", {figure["name"]: figure["value"] for figure in figures})


def _rows(name: str, told: Mapping[str, Any]) -> Iterator[Row]:
    alone = 100 * told["local accuracy"]
    yield Row("personal", f"{name}: common", 100 * told["accuracy"], "%", alone)
    yield Row("personal", f"{name}: kept", 100 * told["kept accuracy"], "%", alone)


def heart() -> dict[str, pd.DataFrame]:
    folder = Path(os.environ.get("AIMER2_DATA", Path(__file__).parents[2] / "shared" / "data")) / "heart-disease-4sites"
    sites = {}
    for name in ("cleveland", "hungarian", "switzerland", "va"):
        frame = pd.read_csv(folder / f"processed.{name}.data", names=HEART, na_values="?")[list(READ)].astype(float)
        sites[name] = frame.assign(chol=frame["chol"].where(frame["chol"] > 0), target=(frame["target"] > 0).astype(int))
    return sites


def biopsies() -> dict[str, pd.DataFrame]:
    frame = load_breast_cancer(as_frame=True).frame[["mean radius", "mean texture", "mean smoothness", "mean concavity", "target"]]
    size = pd.qcut(frame["mean radius"], 3, labels=["small", "middle", "large"])
    return {str(name): part.reset_index(drop=True) for name, part in frame.groupby(size, observed=True)}


def study(method: str, parameters: Mapping[str, Any], frames: Mapping[str, pd.DataFrame]) -> Study:
    columns = next(iter(frames.values())).columns.drop("target")
    return Study(
        name="personal",
        question="What does a hospital gain by a model of its own?",
        purpose="A benchmark on public data",
        ethics="none needed: public data",
        principal_investigator="Benchmarks",
        expires="2100-01-01",
        cohort={"dataset": "d", "features": [{"name": name} for name in columns], "target": {"name": "target"}, "missing": "mean"},
        model={"framework": "numpy", "name": "logistic"},
        training={"learning_rate": 0.5, "local_steps": 5, "batch_size": None},
        method={"name": method, "rounds": 20, "parameters": parameters},
        sites={"minimum": len(frames)},
        evaluation={"held_out": 0.3, "metrics": ["accuracy", "log_loss"], "release_per_site": True},
        privacy={"secure_aggregation": False, "why_not_secure": "a benchmark in one process"},
    )
