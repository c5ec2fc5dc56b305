from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from sklearn.datasets import load_breast_cancer

from aimer2.cli.made_up_patients import made_up_patients
from aimer2.cli.made_up_sites import Division, Reading, divide
from aimer2.core.study import Target, read_study
from aimer2.study.cohort import design

STUDY = """\
name = "breast-cancer"
question = "Do five measurements of the nuclei tell whether the tumour is malignant?"
purpose = "Test on public data."
ethics = "none needed"
principal_investigator = "Dr Ada Test"
expires = 2099-01-01
seed = 7
cohort.dataset = "biopsies"
cohort.features = [
  { name = "mean radius" }, { name = "mean texture" }, { name = "mean smoothness" }, { name = "mean concavity" }, { name = "mean symmetry" },
]
cohort.target = { name = "diagnosis", categories = ["benign", "malignant"] }
model = { framework = "numpy", name = "logistic" }
training = { learning_rate = 0.5, local_epochs = 1 }
method.rounds = 5
evaluation.metrics = ["auc"]
privacy.secure_aggregation = false
privacy.why_not_secure = "two sites in a test"
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """All biopsies, with the hospital that each comes from."""
    frame = load_breast_cancer(as_frame=True).frame
    frame["diagnosis"] = np.where(frame.pop("target") == 0, "malignant", "benign")
    frame["hospital"] = np.where(np.arange(len(frame)) % 3 == 0, "Sankt Gallen", "Graz")
    frame["patient"] = [f"P{number // 2}" for number in range(len(frame))]
    path = tmp_path / "biopsies.csv"
    frame.to_csv(path, index=False)
    return path


def result_of(command: Any, *arguments: object) -> Mapping[str, Any]:
    told = command("simulate", *arguments, "--json")
    assert told.status == 0, told.err
    found: Mapping[str, Any] = json.loads(told.out)
    return found


def auc(result: Mapping[str, Any]) -> float:
    return float(next(figure["value"] for figure in result["figures"] if figure["name"] == "auc"))


def test_a_file_per_site(command: Any, study: Path, data: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(data)
    frame.iloc[:300].to_csv(tmp_path / "north.csv", index=False)
    frame.iloc[300:].to_parquet(tmp_path / "south.parquet")
    model = tmp_path / "model.safetensors"
    sites = ("--sites", f"north={tmp_path / 'north.csv'}", "--sites", f"south={tmp_path / 'south.parquet'}")
    result = result_of(command, study, *sites, "--save-model", model)
    assert {site: part["rounds"] for site, part in result["sites"].items()} == {"north": 5, "south": 5}
    assert auc(result) > 0.95
    assert {name: leaf.shape for name, leaf in load_file(model).items()}
    told = command("simulate", study, *sites)
    assert told.status == 0
    assert "round 5 of 5: 2 of 2 sites" in told.out and "Final model" in told.out


def test_one_file_by_a_column(command: Any, study: Path, data: Path) -> None:
    assert set(result_of(command, study, "--data", data, "--by", "hospital")["sites"]) == {"sankt-gallen", "graz"}
    assert command("simulate", study, "--data", data, "--by", "ward").status == 2


def test_a_number_names_one_site_with_a_point_or_without_and_no_hospital_is_taken_for_another(study: Path, data: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(data)
    frame["ward"] = ["1", "1.0", "007", "7", "5E1", "50", "1e3.0"] * 81 + ["50.00"] * 2
    frame.to_csv(tmp_path / "wards.csv", index=False)
    parts = divide(Reading(read_study(study), None, None), tmp_path / "wards.csv", Division("by", column="ward"), seed=7)
    assert {name: len(table) for name, table in parts.items()} == {"1": 162, "007": 81, "7": 81, "5e1": 81, "50": 83, "1e3-0": 81}
    frame["ward"] = np.repeat([1.0, 20.0], [300, 269])
    frame.to_parquet(tmp_path / "wards.parquet")
    parts = divide(Reading(read_study(study), None, None), tmp_path / "wards.parquet", Division("by", column="ward"), seed=7)
    assert {name: len(table) for name, table in parts.items()} == {"1": 300, "20": 269}


@pytest.mark.parametrize("division", [("--iid", "4"), ("--dirichlet", "4:5"), ("--quantity", "4:5")])
def test_one_file_divided_is_the_same_every_time(command: Any, study: Path, data: Path, division: tuple[str, str]) -> None:
    first = result_of(command, study, "--data", data, *division)
    assert set(first["sites"]) == {"site-1", "site-2", "site-3", "site-4"}
    assert auc(first) > 0.9
    assert result_of(command, study, "--data", data, *division)["model"] == first["model"]


def test_a_patients_rows_stay_at_one_site(command: Any, study: Path, data: Path) -> None:
    parts = divide(Reading(read_study(study), None, "patient"), data, Division("iid", count=3), seed=7)
    seen = [set(table.patient.tolist()) for table in parts.values()]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 285
    assert sum(len(table) for table in parts.values()) == 569


def test_a_mapping_says_what_the_columns_mean(command: Any, study: Path, data: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(data).rename(columns={"mean radius": "R", "diagnosis": "DX"})
    frame["DX"] = frame["DX"].map({"benign": "0", "malignant": "1"})
    frame.to_csv(tmp_path / "raw.csv", index=False)
    mapping = tmp_path / "mapping.toml"
    columns = "".join(f'[columns."mean {name}"]\n' for name in ("texture", "smoothness", "concavity", "symmetry"))
    mapping.write_text(
        f'[columns."mean radius"]\nsource = "R"\n{columns}[columns.diagnosis]\nsource = "DX"\nkind = "category"\n'
        'categories = ["benign", "malignant"]\nvalues = { "0" = "benign", "1" = "malignant" }\n'
    )
    assert command("simulate", study, "--data", tmp_path / "raw.csv", "--iid", 2).status == 2
    assert auc(result_of(command, study, "--data", tmp_path / "raw.csv", "--iid", 2, "--mapping", mapping)) > 0.95


@pytest.mark.parametrize(
    "wrong",
    [
        ("--data", "DATA"),
        ("--data", "DATA", "--iid", "2", "--by", "hospital"),
        ("--data", "DATA", "--dirichlet", "2"),
        ("--data", "DATA", "--dirichlet", "2:0"),
        ("--data", "DATA", "--quantity", "0:1"),
        ("--data", "DATA", "--iid", "57"),  # with ten patients each, one site too many
        ("--sites", "north"),
        ("--sites", "North=DATA"),
        ("--sites", "a=DATA", "--sites", "a=DATA"),
        ("--sites", "a=DATA", "--iid", "2"),
        ("--sites", "a=DATA", "--data", "DATA"),
        ("--iid", "2"),
    ],
)
def test_a_division_that_is_not_clear_is_refused(command: Any, study: Path, data: Path, wrong: tuple[str, ...]) -> None:
    told = command("simulate", study, *(word.replace("DATA", str(data)) for word in wrong))
    assert told.status == 2
    assert "[bad-input]" in told.err


def test_no_cell_is_ever_quoted(command: Any, study: Path, data: Path) -> None:
    data.write_text(data.read_text().replace("17.99", "MARKER-4711", 1))
    told = command("simulate", study, "--data", data, "--iid", "2")
    assert told.status == 2
    assert "mean radius" in told.err and "MARKER" not in told.err + told.out


def test_sites_that_cannot_take_part_are_named_with_the_reason(command: Any, study: Path, data: Path, tmp_path: Path) -> None:
    pd.read_csv(data).iloc[:4].to_csv(tmp_path / "tiny.csv", index=False)
    told = command("simulate", study, "--sites", f"big={data}", "--sites", f"tiny={tmp_path / 'tiny.csv'}")
    assert told.status == 1
    assert "tiny is unfit: There are fewer usable patients than the 10" in told.out
    assert "tiny" in told.err and told.err.rstrip().endswith("[no-result]")


@pytest.mark.parametrize(
    "target",
    [
        {"name": "days", "kind": "survival", "event": "death", "intervals": [100, 200]},
        {"name": "findings", "kind": "multilabel", "labels": ["fever", "cough"], "categories": ["no", "yes"]},
    ],
    ids=["survival", "multilabel"],
)
def test_made_up_patients_have_every_column_of_the_target(target: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    plain = read_study(tmp_path / "study.toml")
    made = plain.model_copy(update={"cohort": plain.cohort.model_copy(update={"target": Target(**target)})})
    for table in made_up_patients(made).values():
        rows = design(made.cohort, table)
        assert rows.targets.shape == (200, 2)
        assert set(np.unique(rows.targets[:, 1])) == {0, 1}
