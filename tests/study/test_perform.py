"""The site's half on its own: what it refuses to train on, whoever asks in whatever order."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aimer2.connectors.frame import from_frame
from aimer2.core.errors import BadData
from aimer2.core.study import Study
from aimer2.core.task import Task
from aimer2.study.perform import open_performer


def study_of(**cohort: Any) -> Study:
    return Study(
        name="perform",
        question="What does a site refuse?",
        purpose="test",
        ethics="none needed",
        principal_investigator="Test Person",
        expires=datetime.date(2100, 1, 1),
        cohort={"dataset": "d", "features": [{"name": "x"}], "target": {"name": "y"}, "standardise": "none"} | cohort,
        model={"framework": "numpy", "name": "logistic"},
        privacy={"secure_aggregation": False, "why_not_secure": "a test"},
    )


def train(study: Study, rows: int) -> Any:
    frame = pd.DataFrame({"x": np.linspace(-1, 1, rows), "y": np.arange(rows) % 2})
    performer = open_performer(study, from_frame(frame, split_key=b"k" * 32), site="north", files={})
    model = {"coefficients": np.zeros(1), "intercept": np.zeros(1)}
    task = Task(id="t", study="0" * 64, site="north", stage="train", round_number=3)
    return performer.perform(task, {"model": model}, {})


def test_a_site_that_joins_late_is_held_to_the_contract_too() -> None:
    """No preflight was asked of it; with too few patients it still gives nothing."""
    with pytest.raises(BadData, match="patients"):
        train(study_of(minimum_patients=100), 60)
    assert set(train(study_of(minimum_patients=20), 60).sums) == {"difference", "weight", "metrics"}
