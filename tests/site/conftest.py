from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.audit.log import AuditLog
from aimer2.blobs.folder import FolderStore
from aimer2.connectors.table import Column, Table, pseudonyms, save_table
from aimer2.core.clock import SystemClock
from aimer2.core.study import Study
from aimer2.identity.keys import SigningKey
from aimer2.messages.package import Package
from aimer2.site.decisions import Decisions
from aimer2.site.folder import SiteFolder
from aimer2.site.settings import Settings, WorkerSettings
from aimer2.site.snapshots import SnapshotRecord, keep_record
from aimer2.site.store import Store
from aimer2.site.workers import Opening
from aimer2.study.pack import pack

MARKER = 31_337_421.5
"""A value in the data that must never be seen outside the worker."""


def make_study(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "heart",
        "question": "Does this patient have a heart disease?",
        "purpose": "test of the site",
        "ethics": "none needed, synthetic",
        "principal_investigator": "Dr Ada Test",
        "expires": datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=30),
        "cohort": {"dataset": "heart", "features": [{"name": "age"}, {"name": "chol"}], "target": {"name": "disease"}, "standardise": "none"},
        "model": {"framework": "numpy", "name": "logistic"},
        "training": {"local_steps": 2, "batch_size": 16},
        "method": {"name": "fedavg", "rounds": 3},
        "sites": {"minimum": 1},
        "privacy": {"secure_aggregation": False, "why_not_secure": "a test"},
    }
    return Study(**(fields | changes))


def make_table(rows: int = 60) -> Table:
    rng = np.random.default_rng(3)
    columns = {name: Column("number", rng.normal(size=rows)) for name in ("age", "chol")}
    columns["disease"] = Column("number", (columns["age"].values > 0).astype(np.float64))
    columns["secret"] = Column("number", np.full(rows, MARKER))
    return Table(columns, pseudonyms([f"patient-{number}" for number in range(rows)], b"0123456789abcdef"))


@pytest.fixture
def marker() -> float:
    return MARKER


@pytest.fixture
def a_study() -> Callable[..., Study]:
    return make_study


@pytest.fixture
def study() -> Study:
    return make_study()


@pytest.fixture
def snapshot(tmp_path: Path) -> SnapshotRecord:
    """Of the data set "heart" of the site in ``tmp_path/site``."""
    place = tmp_path / "site" / "datasets" / "heart"
    (place / "snapshots").mkdir(parents=True)
    (place / "dataset.toml").write_text('name = "heart"\nkind = "csv"\n[source]\npath = "heart.csv"\n')
    made = save_table(make_table(), place / "snapshots" / "one", clock=SystemClock())
    record = SnapshotRecord(
        path=made.path, sha256=made.sha256, rows=made.rows, patients=made.patients, created=made.created, opted_out=made.opted_out
    )
    keep_record(record)
    return record


@pytest.fixture
def larger_table(snapshot: SnapshotRecord) -> Table:
    """The same data set with one patient more."""
    before = make_table()
    columns = {name: Column("number", np.append(column.values, column.values[0])) for name, column in before.columns.items()}
    return Table(columns, np.append(before.patient, pseudonyms(["a new one"], b"0123456789abcdef")))


@pytest.fixture
def blobs(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "coordinator-blobs")


@pytest.fixture
def package(study: Study, tmp_path: Path, blobs: FolderStore) -> Package:
    return pack(study, tmp_path, {"north": SigningKey.generate().public.text}, blobs)


@pytest.fixture
def make_opening(tmp_path: Path, snapshot: SnapshotRecord) -> Callable[..., Opening]:
    """What a worker is started with, for a study and files beside it."""

    def make(study: Study, files: dict[str, str] | None = None, **settings: Any) -> Opening:
        folder = tmp_path / "studies" / study.name
        (folder / "files").mkdir(parents=True)
        (folder / "files" / "study.json").write_text(study.model_dump_json())
        for name, text in (files or {}).items():
            (folder / "files" / name).write_text(text)
        return Opening("north", folder, snapshot.path, snapshot.sha256, 60, WorkerSettings(memory_mib=2048, **settings))

    return make


@pytest.fixture
def site(tmp_path: Path, snapshot: SnapshotRecord) -> Decisions:
    folder = SiteFolder(tmp_path / "site")
    key = SigningKey.generate()
    return Decisions("north", folder, key, Store(folder.state), AuditLog(folder.audit, key, SystemClock()), SystemClock())


@pytest.fixture
def settings() -> Settings:
    address = {"url": "https://127.0.0.1:1", "name": "Test", "key": SigningKey.generate().public.text}
    return Settings.model_validate(json.loads(json.dumps({"site": "north", "coordinator": address})))
