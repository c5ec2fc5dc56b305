from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from aimer2.audit.log import AuditLog
from aimer2.connectors.mapping import DataMapping
from aimer2.connectors.table import load_table
from aimer2.core.clock import SystemClock
from aimer2.core.errors import BadInput, Conflict, NotFound
from aimer2.identity.keys import SigningKey
from aimer2.site import snapshots
from aimer2.site.datasets import Datasets, DatasetSettings, suggest_mapping
from aimer2.site.folder import SiteFolder
from aimer2.site.settings import CoordinatorAddress, Retention, first_settings

ROWS = "id,age,sex,note\n" + "".join(f"p{n},{40 + n},{'fm'[n % 2]},text {n}\n" for n in range(60))


@dataclass
class SetClock:
    time: float = 1_800_000_000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def datasets(tmp_path: Path, clock: SetClock) -> Datasets:
    folder = SiteFolder(tmp_path / "site")
    folder.path.mkdir()
    folder.split_key.write_text("ab" * 32)
    (tmp_path / "heart.csv").write_text(ROWS)
    audit = AuditLog(folder.audit, SigningKey.generate(), SystemClock())
    return Datasets(folder, audit, clock, Retention(snapshots=2, days=30), "Dr Grace")


def test_a_column_whose_every_word_is_of_few_patients_is_suggested_to_nobody(tmp_path: Path) -> None:
    """Of patients, not of rows: each of the forty has come ten times."""
    rows = [f"p{n},Surname{n},{'fm'[n % 2]},{n % 3}" for n in range(40) for _ in range(10)]
    (tmp_path / "visits.csv").write_text("\n".join(["id,surname,sex,grade", *rows]))
    suggested = DataMapping.model_validate(tomllib.loads(text := suggest_mapping(tmp_path / "visits.csv", "id")))
    assert set(suggested.columns) == {"sex", "grade"} and "Surname1" not in text
    assert set(DataMapping.model_validate(tomllib.loads(suggest_mapping(tmp_path / "visits.csv", "id", 21))).columns) == {"grade"}


def add(datasets: Datasets, source: Path, opt_out: Path | None = None) -> None:
    settings = DatasetSettings.model_validate({"name": "heart", "kind": "csv", "source": {"path": str(source)}, "opt_out": opt_out})
    datasets.add(settings, suggest_mapping(source, "id"))


def test_a_suggested_mapping_reads_the_file(datasets: Datasets, tmp_path: Path) -> None:
    add(datasets, tmp_path / "heart.csv")
    record = datasets.refresh("heart")
    table = load_table(record.path, verify=True, sha256=record.sha256)
    assert {name: column.kind for name, column in table.columns.items()} == {"age": "number", "sex": "category"}
    assert (record.patients, record.rows) == (60, 60)
    assert datasets.describe("heart").patients == "60"


def test_those_who_opted_out_are_in_no_new_snapshot(datasets: Datasets, tmp_path: Path) -> None:
    opt_out = tmp_path / "opt-out.txt"
    opt_out.write_text("# asked to be left out\np3\np17\n")
    add(datasets, tmp_path / "heart.csv", opt_out)
    record = datasets.refresh("heart")
    assert (record.patients, record.opted_out) == (58, 2)
    assert 43.0 not in load_table(record.path, verify=False).columns["age"].values
    opt_out.unlink()
    with pytest.raises(BadInput):
        datasets.refresh("heart")


def test_only_so_many_snapshots_are_kept_and_none_for_too_long(datasets: Datasets, tmp_path: Path, clock: SetClock) -> None:
    add(datasets, tmp_path / "heart.csv")
    made = []
    for _ in range(3):
        made.append(datasets.refresh("heart"))
        clock.time += 1
    assert [record.path for record in snapshots.records(datasets.folder, "heart")] == [made[1].path, made[2].path]
    assert not made[0].path.exists()
    assert snapshots.current(datasets.folder, "heart", datasets.retention, clock.now()).path == made[2].path
    clock.time += 31 * 86_400
    with pytest.raises(NotFound):
        snapshots.current(datasets.folder, "heart", datasets.retention, clock.now())
    newest = datasets.refresh("heart")
    assert [record.path for record in snapshots.records(datasets.folder, "heart")] == [newest.path]


def test_a_name_is_taken_once_and_a_bad_mapping_leaves_nothing_behind(datasets: Datasets, tmp_path: Path) -> None:
    settings = DatasetSettings.model_validate({"name": "heart", "kind": "csv", "source": {"path": "x.csv"}})
    with pytest.raises(BadInput):
        datasets.add(settings, "columns = 3")
    assert snapshots.names(datasets.folder) == []
    add(datasets, tmp_path / "heart.csv")
    with pytest.raises(Conflict):
        add(datasets, tmp_path / "heart.csv")
    with pytest.raises(NotFound):
        datasets.refresh("lungs")


def test_what_is_published_is_rounded_and_recorded(datasets: Datasets, tmp_path: Path) -> None:
    add(datasets, tmp_path / "heart.csv")
    datasets.refresh("heart")
    coordinator = CoordinatorAddress(url="https://c.example", name="C", key=SigningKey.generate().public.text)
    datasets.folder.settings.write_text(first_settings("north", coordinator))
    described = datasets.describe_for_others("heart")
    datasets.publish("heart", described.digest)
    assert all(not column.quantiles for column in described.columns)
    assert [entry.kind for entry in datasets.audit.read()] == ["dataset-added", "snapshot-made", "dataset-published"]
