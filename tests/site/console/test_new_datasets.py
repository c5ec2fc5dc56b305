"""A data set is added and its mapping changed in the console: of a file where the settings allow it, with every fault shown and nothing lost."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from starlette.testclient import TestClient
from tests.site.console.conftest import send

from aimer2.site import snapshots
from aimer2.site.console.console import Console
from aimer2.site.console.new_datasets import files_under
from aimer2.site.folder import SiteFolder


@pytest.fixture
def drop(folder: SiteFolder, tmp_path: Path) -> Path:
    """A folder that the settings allow, with a file in it."""
    place = tmp_path / "drop"
    place.mkdir()
    rows = [f"P{n},{50 + n % 30},{'fm'[n % 2]}" for n in range(60)]
    (place / "ward.csv").write_text("\n".join(["id,age,sex", *rows]) + "\n")
    folder.settings.write_text(folder.settings.read_text() + f'[console]\ndata_folders = ["{place}"]\n')
    return place


@pytest.fixture
def administrator(entered: Callable[[str], TestClient]) -> TestClient:
    return entered("roth")


@pytest.fixture
def auditor(entered: Callable[[str], TestClient]) -> TestClient:
    return entered("cole")


def mapping_of(page: str) -> str:
    found = re.search(r'<textarea[^>]*name="mapping"[^>]*>\n?(.*?)</textarea>', page, re.DOTALL)
    assert found is not None, page
    return html.unescape(found[1])


def test_a_data_set_is_added_with_the_mapping_that_the_file_suggests(administrator: TestClient, console: Console, drop: Path) -> None:
    given = {"name": "ward", "path": str(drop / "ward.csv"), "patient": "id"}
    assert str(drop / "ward.csv") in administrator.get("/datasets/new").text
    looked = send(administrator, "/datasets/new", **given)
    suggested = mapping_of(looked.text)
    assert 'patient = "id"' in suggested and 'categories = ["f", "m"]' in suggested
    assert snapshots.names(console.folder) == ["registry"], "looked at, not added"
    wrong = send(administrator, "/datasets/new", **given, mapping=suggested.replace('kind = "number"', 'kind = "numeral"'))
    assert wrong.status_code == 400 and "numeral" in mapping_of(wrong.text) and "columns.age" in wrong.text
    assert snapshots.names(console.folder) == ["registry"]
    done = send(administrator, "/datasets/new", **given, mapping=suggested.replace('kind = "number"', 'kind = "number"\nunit = "a"'))
    assert done.headers["location"] == "/datasets?done=begun"
    ended(console, "refresh ward")
    page = administrator.get("/datasets/ward").text
    assert "<dd>60</dd>" in page and "<td>a</td>" in page
    assert ("dataset-added", "Jan Roth") in [(entry.kind, entry.actor) for entry in console.decisions.audit.read()]
    again = send(administrator, "/datasets/new", **given, mapping=suggested)
    assert again.status_code == 409 and 'role="alert"' in again.text


def ended(console: Console, name: str) -> None:
    end = time.monotonic() + 20
    while (piece := console.work.find(name)) is None or piece.state == "running":
        assert time.monotonic() < end
        time.sleep(0.01)
    assert piece.error is None, piece.error


def test_only_files_under_the_named_folders_are_taken(administrator: TestClient, console: Console, drop: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("id,age\n1,2\n")
    (drop / "link.csv").symlink_to(tmp_path / "secret.csv")
    for path in (tmp_path / "secret.csv", drop / "link.csv", f"{drop}/../secret.csv", "ward.csv", console.folder.key, "/etc/passwd", f"{drop}\0"):
        answer = send(administrator, "/datasets/new", name="x", path=str(path))
        assert answer.status_code == 400 and "lies elsewhere" in answer.text, path
    outside = {"opt_out": str(tmp_path / "secret.csv"), "image_folder": str(tmp_path)}
    for field, value in outside.items():
        answer = send(administrator, "/datasets/new", **{"name": "x", "path": str(drop / "ward.csv"), "mapping": "", field: value})
        assert answer.status_code == 400 and "lies elsewhere" in answer.text, field
    assert send(administrator, "/datasets/new", name="x", path=str(drop / "gone.csv")).status_code == 400
    for name in ("../x", "new", "", "X y"):
        assert send(administrator, "/datasets/new", name=name, path=str(drop / "ward.csv"), mapping="[columns.age]").status_code == 400, name
    assert snapshots.names(console.folder) == ["registry"]


def test_without_named_folders_no_file_is_taken(administrator: TestClient, folder: SiteFolder, tmp_path: Path) -> None:
    assert "data_folders" in administrator.get("/datasets/new").text
    assert (
        send(administrator, "/datasets/new", name="x", path=str(tmp_path / "registry.csv"), mapping="[columns.age]", page="/datasets").status_code
        == 400
    )


def test_who_may_not_see_patients_adds_nothing_and_reads_no_mapping(auditor: TestClient, drop: Path) -> None:
    assert auditor.get("/datasets/new").status_code == 403
    assert auditor.get("/datasets/registry/mapping").status_code == 403
    assert send(auditor, "/datasets/new", name="x", path=str(drop / "ward.csv"), page="/people").status_code == 403


def test_a_mapping_is_changed_whole_or_not_at_all(administrator: TestClient, console: Console, folder: SiteFolder) -> None:
    before = (folder.dataset("registry") / "mapping.toml").read_text()
    assert mapping_of(administrator.get("/datasets/registry/mapping").text) == before
    page = "/datasets/registry/mapping"
    refused = send(administrator, page, mapping="[columns.age]\nunits = 1", page=page)
    assert refused.status_code == 400 and mapping_of(refused.text) == "[columns.age]\nunits = 1\n"
    assert (folder.dataset("registry") / "mapping.toml").read_text() == before
    changed = 'patient = "patient"\n[columns.age]\nunit = "a"\n[columns.disease]\n'
    assert send(administrator, page, mapping=changed.replace("\n", "\r\n"), page=page).headers["location"] == "/datasets/registry?done=mapping-kept"
    assert (folder.dataset("registry") / "mapping.toml").read_text() == changed
    assert "dataset-changed" in [entry.kind for entry in console.decisions.audit.read()]
    assert not list(folder.dataset("registry").glob("*.draft"))


@pytest.mark.parametrize("kind", ["semicolons", "parquet"])
def test_the_patient_column_of_the_form_is_in_every_suggestion_and_nothing_else_is_kept(
    kind: str, administrator: TestClient, console: Console, drop: Path
) -> None:
    """Sixty visits of ten patients are ten patients, whatever kind of file they lie in."""
    visits = pd.DataFrame({"pid": [f"P{n // 6}" for n in range(60)], "age": [50.0 + n % 30 for n in range(60)]})
    given = {"name": "visits", "patient": "pid"}
    if kind == "parquet":
        visits.to_parquet(drop / "visits.parquet")
        given |= {"path": str(drop / "visits.parquet")}
    else:
        visits.to_csv(drop / "visits.csv", sep=";", index=False)
        given |= {"path": str(drop / "visits.csv"), "delimiter": ";"}
    suggested = mapping_of(send(administrator, "/datasets/new", **given).text)
    assert suggested.startswith('patient = "pid"\n')
    for mapping in ("[columns.age]", 'patient = "age"\n[columns.age]'):
        refused = send(administrator, "/datasets/new", **given, mapping=mapping)
        assert refused.status_code == 400 and "column with the patient" in html.unescape(refused.text), mapping
        assert mapping_of(refused.text).strip() == mapping
    assert snapshots.names(console.folder) == ["registry"]
    assert send(administrator, "/datasets/new", **given, mapping=suggested.replace('"COLUMN"', "age")).status_code == 303
    ended(console, "refresh visits")
    assert "<dd>10</dd>" in administrator.get("/datasets/visits").text


@pytest.mark.parametrize(
    ("content", "name", "mapping"),
    [
        ("", "x.csv", ""),
        ("id\np1\n", "x.csv", ""),
        ('"' + "a" * 140_000 + '",b\n1,2\n', "x.csv", ""),
        ("a\n1\n", "a" * 300, ""),
        ("a\n1\n", "x.csv", "a=" + "[" * 20_000),
        ("a\n1\n", "x.csv", "a=" + "1" * 5_000),
    ],
    ids=["empty file", "patients alone", "long header", "long name", "deep mapping", "long number"],
)
def test_what_a_form_may_get_wrong_is_told_on_its_page(
    content: str, name: str, mapping: str, administrator: TestClient, console: Console, drop: Path
) -> None:
    (drop / "x.csv").write_text(content)
    patient = "id" if content.startswith("id") else ""
    answer = send(administrator, "/datasets/new", name="x", path=str(drop / name), patient=patient, mapping=mapping)
    assert answer.status_code == 400 and 'role="alert"' in answer.text
    assert snapshots.names(console.folder) == ["registry"]
    if mapping:
        page = "/datasets/registry/mapping"
        kept = send(administrator, page, page=page, mapping=mapping)
        assert kept.status_code == 400 and "is not in TOML" in kept.text


def test_a_tree_of_many_files_is_not_walked_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(30):
        (tmp_path / "images" / f"{number}.png").touch()
        (tmp_path / "images" / f"{number}.csv").touch()
    (tmp_path / "ward.csv").touch()
    everything = list(files_under((tmp_path, tmp_path / "gone")))
    assert len(everything) == 31 and everything == sorted(everything)
    assert list(files_under((tmp_path,), 2)) == [str(tmp_path / "ward.csv")], "its own files are seen before those of its folders"
    assert len(list(files_under((tmp_path,), 12))) <= 12
