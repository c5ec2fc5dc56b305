"""A pulled version scores new patients as the learner in the study would, in Python and in any ONNX runtime."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from made_versions import frame, study_of
from safetensors.numpy import load_file

from aimer2.connectors.frame import from_frame
from aimer2.core.errors import BadData, Conflict, NotAvailable
from aimer2.learners.catalogue import make_learner
from aimer2.repository.export import export_folder, export_onnx
from aimer2.repository.inputs import inputs_of
from aimer2.repository.prediction import predict
from aimer2.study import cohort

Make = Callable[..., Any]


def in_study(made: Any, rows: Any) -> np.ndarray[Any, Any]:
    """The scores as the study itself computes them at a site."""
    study = made.version.study
    table = from_frame(rows, split_key=bytes(16))
    samples = cohort.complete(cohort.design(study.cohort, table), study.cohort, made.version.moments())
    learner = make_learner(study, feature_shape=samples.feature_shape, files={})
    learner.load(made.simulation.model)
    return np.asarray(learner.predict(samples))


@pytest.mark.parametrize("framework", [{"framework": "torch", "name": "mlp", "options": {"hidden": [8]}}, {"framework": "numpy", "name": "logistic"}])
def test_scores_are_those_of_the_study(make: Make, framework: dict[str, Any], tmp_path: Path) -> None:
    made, rows = make(model=framework), frame(99, 30)
    file = tmp_path / "new.csv"
    rows.drop(columns="disease").to_csv(file, index=False)
    names, scores = predict(made.version, file)
    assert list(names) == ["disease"]
    assert scores[:, 0] == pytest.approx(in_study(made, rows), abs=1e-12)
    assert np.ptp(scores) > 0.2, "the scores tell patients apart"


def test_a_mapping_says_which_column_is_which(make: Make, tmp_path: Path) -> None:
    made, rows = make(), frame(98, 20)
    plain, other = tmp_path / "plain.csv", tmp_path / "other.csv"
    rows.drop(columns="disease").to_csv(plain, index=False)
    rows.rename(columns={"age": "ALTER", "sex": "GESCHLECHT"}).assign(ALTER=rows.age * 12).to_csv(other, index=False)
    with pytest.raises(BadData):
        predict(made.version, other)
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(
        '[columns.age]\nsource = "ALTER"\nfactor = 0.08333333333333333\n'
        '[columns.sex]\nsource = "GESCHLECHT"\nkind = "category"\ncategories = ["f", "m"]\n[columns.chol]\n'
    )
    assert predict(made.version, other, mapping)[1] == pytest.approx(predict(made.version, plain)[1], abs=1e-6)


@pytest.mark.parametrize("standardise", ["federated", "none"])
def test_an_onnx_file_takes_rows_as_they_are_and_gives_the_same_scores(make: Make, standardise: str, tmp_path: Path) -> None:
    made = make(cohort=study_of().cohort.model_dump() | {"standardise": standardise})
    path = tmp_path / "model.onnx"
    assert export_onnx(made.version, path) < 1e-5
    rows = frame(97, 25)
    raw = np.column_stack([rows.age, (rows.sex == "m").astype(float), rows.chol])
    scores = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["scores"], {"rows": raw})[0]
    assert np.isnan(raw).any(), "a missing cell is filled in the graph"
    assert np.asarray(scores).ravel() == pytest.approx(in_study(made, rows), abs=1e-6)
    notes = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert notes["study"] == made.version.digest
    assert [one["name"] for one in json.loads(notes["inputs"])] == ["age", "sex", "chol"]


def test_the_inputs_of_an_exported_model_name_its_image_and_how_it_is_prepared() -> None:
    cohort = study_of().cohort.model_dump() | {"image": {"name": "scan", "height": 32, "width": 24, "mean": [0.4], "deviation": [0.2]}}
    first, *columns = inputs_of(study_of(cohort=cohort, model={"name": "cnn"}).cohort)
    wanted = {"kind": "image", "name": "scan", "channels": 1, "height": 32, "width": 24, "intensity": "depth", "mean": [0.4], "deviation": [0.2]}
    assert first.items() >= wanted.items()
    assert columns == inputs_of(study_of().cohort) and [one["name"] for one in columns] == ["age", "sex", "chol"]


def test_what_cannot_be_an_onnx_file_says_so(make: Make, tmp_path: Path) -> None:
    made = make(model={"framework": "numpy", "name": "logistic"})
    with pytest.raises(NotAvailable, match="PyTorch"):
        export_onnx(made.version, tmp_path / "model.onnx")
    assert not list(tmp_path.glob("*.onnx"))


def test_a_plain_folder_rebuilds_the_model_without_us(make: Make, tmp_path: Path) -> None:
    made = make(model={"framework": "torch", "name": "logistic"})
    folder = tmp_path / "out"
    export_folder(made.version, folder)
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / config["weights"]["file"])
    moments = config["preprocessing"]["moments"]
    rows = frame(96, 15).dropna()
    raw = np.column_stack([rows.age, (rows.sex == "m").astype(float), rows.chol])
    numeric = np.array([one["kind"] == "number" for one in config["inputs"]])
    scaled = np.where(numeric, (raw - moments["mean"]) / np.array(moments["deviation"]), raw)
    (weight,) = (leaf for name, leaf in weights.items() if name.endswith("weight"))
    (bias,) = (leaf for name, leaf in weights.items() if name.endswith("bias"))
    by_hand = 1 / (1 + np.exp(-(scaled @ weight.T.astype(float) + bias).ravel()))
    assert by_hand == pytest.approx(in_study(made, rows), abs=1e-6)
    assert "Limits" in (folder / "card.md").read_text()
    with pytest.raises(Conflict):
        export_folder(made.version, folder)
