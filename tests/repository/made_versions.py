"""Versions as a coordinator signs them, of studies that really ran in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from aimer2.blobs.memory import MemoryStore
from aimer2.client.simulate import Simulation, made_up_key, simulate
from aimer2.connectors.table import Column, Table
from aimer2.core.study import Study
from aimer2.identity.documents import sign_document
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import digest
from aimer2.messages.record import STAGE_KIND, StageChange, StudyRecord
from aimer2.messages.wire import Decision
from aimer2.repository.version import WEIGHTS, Version, open_version, write_version
from aimer2.study.checkpoint import store as keep
from aimer2.study.pack import pack

COORDINATOR = SigningKey.generate()
SITES = ("east", "north", "west")


def study_of(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "heart",
        "question": "Does age tell who has the disease?",
        "purpose": "test of the repository",
        "ethics": "none needed: drawn numbers",
        "principal_investigator": "Dr Ada Test",
        "expires": "2090-01-01",
        "cohort": {
            "dataset": "heart",
            "features": [
                {"name": "age"},
                {"name": "sex", "kind": "category", "categories": ["f", "m"]},
                {"name": "chol", "minimum": 0, "maximum": 900},
            ],
            "target": {"name": "disease"},
            "missing": "mean",
        },
        "model": {"framework": "torch", "name": "mlp", "options": {"hidden": [8]}},
        "training": {"learning_rate": 0.3, "local_steps": 5},
        "method": {"name": "fedavg", "rounds": 2},
        "sites": {"names": SITES, "minimum": 2},
        "privacy": {"secure_aggregation": False, "why_not_secure": "a test"},
    }
    return Study(**(fields | changes))


def frame(seed: int, rows: int = 80) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.normal(60, 10, rows)
    chol = np.where(rng.random(rows) < 0.1, np.nan, rng.normal(220, 40, rows))
    disease = (age + rng.normal(0, 8, rows) > 60).astype(float)
    sex = pd.Categorical(np.where(rng.random(rows) < 0.5, "f", "m"), categories=["f", "m"])
    return pd.DataFrame({"age": age, "sex": sex, "chol": chol, "disease": disease})


def scans(seed: int, rows: int = 24) -> Table:
    """Images of 16 bits, bright where the patient is ill, whose masks tell where; and the patient's age beside them, higher where ill."""
    rng = np.random.default_rng(seed)
    ill = np.arange(rows) % 2
    age = rng.normal(60, 10, rows) + 10 * ill
    pixels = rng.integers(0, 20_000, (rows, 1, 9, 12)).astype("<u2")
    pixels[ill == 1, :, 2:6, 3:8] += 40_000
    columns = {"scan": Column("image", pixels), "age": Column("number", age), "ill": Column("number", ill.astype(float))}
    columns["spot"] = Column("mask", (pixels[:, 0] > 30_000).astype(np.uint8), ("none", "spot"))
    return Table(columns, np.arange(rows, dtype=np.uint64) << np.uint64(40))


def packed(study: Study) -> Any:
    return pack(study, Path(), {site: made_up_key(site).public.text for site in SITES}, MemoryStore())


def decided(study: str, site: str, key: SigningKey | None = None, **changes: Any) -> str:
    fields = {"study": study, "site": site, "decision": "approve", "by": "Dr Test", "dataset": "heart", "time": 1.0} | changes
    return sign_document(Decision(**fields).model_dump_json().encode(), key or made_up_key(site), kind="decision")


def staged(study: str, model: str, stage: Any, key: SigningKey = COORDINATOR) -> str:
    change = StageChange(study=study, model=model, stage=stage, by="anna", reason="It held on new patients.", time=2.0)
    return sign_document(change.model_dump_json().encode(), key, kind=STAGE_KIND)


def signed(result: dict[str, Any], key: SigningKey = COORDINATOR) -> str:
    return sign_document(json.dumps(result).encode(), key, kind="result")


@dataclass(frozen=True)
class Made:
    """What a study has left: as the simulator gives it, and as a coordinator's record."""

    simulation: Simulation
    record: StudyRecord
    weights: Path
    version: Version


Make: TypeAlias = Callable[..., Made]


@cache
def _ran(study: str) -> Simulation:
    """A study is run once for all tests."""
    asked = Study(**json.loads(study))
    data = frame if asked.cohort.image is None else scans
    return simulate(asked, {site: data(number) for number, site in enumerate(SITES)})


def make_version(place: Path, **changes: Any) -> Made:
    study = study_of(**changes)
    simulation, package = _ran(study.model_dump_json()), packed(study)
    assert simulation.result["study"] == digest(package), "the record is of the study that ran"
    record = StudyRecord(
        study=digest(package),
        package=package,
        decisions=tuple(decided(digest(package), site) for site in SITES),
        result=signed(simulation.result),
        key=COORDINATOR.public.text,
    )
    place.mkdir()
    version = open_version(record, COORDINATOR.public, place / WEIGHTS)
    store = MemoryStore()
    ref = keep(dict(simulation.model), store)
    (place / WEIGHTS).write_bytes(bytes(store.open(ref).view()))
    write_version(place, version)
    return Made(simulation, record, place / WEIGHTS, version)
