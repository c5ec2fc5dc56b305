"""A whole study with one hospital that lies: its labels are turned round, or its model is the opposite and large."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aimer2 import Study, simulate

AGGREGATORS = ["median", "trimmed_mean", "krum", "geometric_median", "norm_bounded", "centred_clipping"]


def hospital(seed: int, rows: int = 120, *, lies: bool = False, scale: float = 1.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 2))
    y = (x[:, 0] - x[:, 1] + rng.normal(0, 0.5, rows) > 0).astype(int)
    return pd.DataFrame({"x": x[:, 0] * scale, "y": x[:, 1] * scale, "event": 1 - y if lies else y})


@cache
def coefficients(aggregator: str, *, scale: float, poisoned: bool = True) -> Any:
    study = Study(
        name="poisoned",
        question="Does one false hospital change the model?",
        purpose="testing",
        ethics="none needed: drawn numbers",
        principal_investigator="Test",
        expires="2090-01-01",
        cohort={"dataset": "d", "features": [{"name": "x"}, {"name": "y"}], "target": {"name": "event"}, "standardise": "none"},
        model={"framework": "numpy", "name": "logistic"},
        training={"learning_rate": 0.5, "local_epochs": 1, "batch_size": 1000},
        method={"name": "fedavg", "rounds": 5, "aggregator": aggregator},
        sites={"minimum": 5},
        evaluation={"held_out": 0},
        privacy={"secure_aggregation": False, "why_not_secure": "a test"},
    )
    sites = {f"site-{seed}": hospital(seed) for seed in range(5)}
    if poisoned:
        sites["site-2"] = hospital(2, lies=True, scale=scale)
    result = simulate(study, sites)
    assert result.result["method"]["aggregator"] == aggregator
    return result.model["coefficients"].reshape(-1)[:2]


@pytest.mark.parametrize("scale", [1.0, 1e3], ids=["labels turned round", "and the update a thousandfold"])
@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_the_model_still_points_where_the_honest_ones_do(aggregator: str, scale: float) -> None:
    clean, found = coefficients("weighted_mean", scale=1.0, poisoned=False), coefficients(aggregator, scale=scale)
    cosine = clean @ found / np.linalg.norm(clean) / np.linalg.norm(found)
    assert cosine > 0.97
    assert 0.3 < np.linalg.norm(found) / np.linalg.norm(clean) < 1.5


def test_the_mean_is_carried_away() -> None:
    clean, found = coefficients("weighted_mean", scale=1.0, poisoned=False), coefficients("weighted_mean", scale=1e3)
    assert clean @ found < 0
