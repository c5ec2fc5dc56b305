"""A real federation for the client: a coordinator and a hospital as processes; studies that their rules approve at once."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.cli.federation import Federation, Hospital
from aimer2.client.coordinator import Coordinator
from aimer2.core.study import Study

MAPPING = """\
[columns.age]
[columns.disease]
"""
POLICY = """\
[[rule]]
name = "tests"
set_by = "Dr Test, data-protection officer"
decision = "approve"
datasets = ["registry"]
methods = ["fedavg"]
minimum_patients = 10
maximum_rounds = 1000
maximum_days = 366
"""


def study_of(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "heart",
        "question": "Does age tell who has the disease?",
        "purpose": "test of the client",
        "ethics": "none needed, synthetic",
        "principal_investigator": "Dr Ada Test",
        "expires": datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=30),
        "cohort": {"dataset": "registry", "features": [{"name": "age"}], "target": {"name": "disease"}, "standardise": "none"},
        "model": {"framework": "numpy", "name": "logistic"},
        "training": {"local_steps": 2, "batch_size": 16},
        "method": {"name": "fedavg", "rounds": 3},
        "sites": {"minimum": 1},
        "evaluation": {"metrics": ["auc"]},
        "privacy": {"secure_aggregation": False, "why_not_secure": "a test"},
    }
    return Study(**(fields | changes))


@pytest.fixture(scope="session")
def make_study() -> Callable[..., Study]:
    return study_of


def hospital(folder: Path, name: str, seed: int) -> Hospital:
    rng = np.random.default_rng(seed)
    age = rng.normal(size=80)
    rows = [f"{a!r},{int(a + rng.normal() > 0)}" for a in map(float, age)]
    path = folder / f"{name}.csv"
    path.write_text("\n".join(["age,disease", *rows]) + "\n")
    return Hospital(name, path, MAPPING, POLICY)


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("federation")
    with Federation(folder) as made:
        made.make_coordinator("Test coordinator")
        made.run_coordinator()
        made.make_sites([hospital(folder, "north", 1)])
        made.run_site("north")
        yield made


@pytest.fixture(scope="session")
def coordinator(federation: Federation) -> Coordinator:
    """The researcher's client, logged in."""
    return federation.researcher()
