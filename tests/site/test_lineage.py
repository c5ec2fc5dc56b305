"""Patients whom two data sets have in common."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aimer2.connectors.table import Column, Table, pseudonyms, save_table
from aimer2.core.clock import SystemClock
from aimer2.site.folder import SiteFolder
from aimer2.site.lineage import common_patients
from aimer2.site.snapshots import SnapshotRecord, keep_record

PATIENTS = 'patient = "id"\n[columns.age]\n'
PLACES = "[columns.age]\n"


@pytest.fixture
def folder(tmp_path: Path) -> SiteFolder:
    return SiteFolder(tmp_path / "site")


def add(folder: SiteFolder, name: str, ids: list[str], mapping: str = PATIENTS, snapshot: str = "one") -> None:
    place = folder.dataset(name)
    (place / "snapshots").mkdir(parents=True, exist_ok=True)
    (place / "dataset.toml").touch()
    (place / "mapping.toml").write_text(mapping)
    table = Table({"age": Column("number", np.zeros(len(ids)))}, pseudonyms(ids, bytes(16)))
    made = save_table(table, place / "snapshots" / snapshot, clock=SystemClock())
    fields = {"rows": made.rows, "patients": made.patients, "created": made.created, "opted_out": 0}
    keep_record(SnapshotRecord(path=made.path, sha256=made.sha256, **fields))


def test_patients_in_common_are_counted_once_whatever_their_rows(folder: SiteFolder) -> None:
    add(folder, "heart", ["ada", "ada", "bea", "cem"])
    add(folder, "women", ["ada", "ada", "ada", "bea", "dag"])
    add(folder, "lung", ["eve"])
    assert common_patients(folder, "heart") == {"women": 2}
    assert common_patients(folder, "lung") == {}


def test_it_is_the_newest_snapshot_that_counts(folder: SiteFolder) -> None:
    add(folder, "heart", ["ada"])
    add(folder, "lung", ["bea"])
    add(folder, "lung", ["ada", "bea"], snapshot="two")
    assert common_patients(folder, "heart") == {"lung": 1}


def test_rows_known_by_their_place_are_nobodys(folder: SiteFolder) -> None:
    """Both have a row 0; that is no common patient."""
    add(folder, "heart", ["0", "1"], PLACES)
    add(folder, "lung", ["0", "1"], PLACES)
    assert common_patients(folder, "heart") == {}
