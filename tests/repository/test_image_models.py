"""Models of images handed on: scored from files here, and computed from their pixels by any ONNX runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from made_versions import scans
from PIL import Image

from aimer2.connectors.table import Table
from aimer2.core.errors import NotAvailable
from aimer2.learners.catalogue import make_learner
from aimer2.repository.export import export_onnx
from aimer2.repository.prediction import predict
from aimer2.study import cohort

Make = Callable[..., Any]

IMAGE = {"name": "scan", "height": 9, "width": 12}
JOINED = {
    "cohort": {
        "dataset": "chest",
        "image": {**IMAGE, "intensity": "image"},
        "features": [{"name": "age"}],
        "target": {"name": "ill"},
        "missing": "mean",
        "minimum_patients": 1,
    },
    "model": {"name": "cnn", "options": {"channels": [4, 4]}},
    "training": {"optimiser": "adam", "learning_rate": 0.05, "local_steps": 8},
}
SEGMENTED = {
    "cohort": {
        "dataset": "chest",
        "image": {**IMAGE, "mean": [0.2], "deviation": [0.3]},
        "target": {"name": "spot", "kind": "segmentation", "categories": ["none", "spot"]},
        "minimum_patients": 1,
    },
    "model": {"name": "unet", "options": {"channels": [4, 4]}},
    "training": {"local_steps": 1},
}


def at_a_site(made: Any, table: Table) -> npt.NDArray[Any]:
    """The scores as the study itself computes them there."""
    study = made.version.study
    design = cohort.design(study.cohort, table)
    samples = cohort.complete(design, study.cohort, made.version.moments() or cohort.own_moments(design))
    learner = make_learner(study, feature_shape=samples.feature_shape, files={})
    learner.load(made.simulation.model)
    return np.asarray(learner.predict(samples))


def run(path: Path, **inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(["scores"], inputs)[0])


def test_an_image_and_a_column_give_the_same_score_at_a_site_from_files_and_in_onnx(make: Make, tmp_path: Path) -> None:
    made, new = make(**JOINED), scans(99, 6)
    expected = at_a_site(made, new)
    pixels, age = new.columns["scan"].values, new.columns["age"].values
    for number, image in enumerate(pixels):
        Image.fromarray(image[0]).save(tmp_path / f"{number}.png")
    (tmp_path / "new.csv").write_text("scan,age\n" + "".join(f"{number}.png,{years!r}\n" for number, years in enumerate(age.tolist())))
    names, scores = predict(made.version, tmp_path / "new.csv")
    assert list(names) == ["ill"] and scores[:, 0] == pytest.approx(expected, abs=1e-12)
    assert np.ptp(scores) > 0.2, "the scores tell patients apart"

    assert export_onnx(made.version, tmp_path / "model.onnx") < 1e-5
    intensities = (pixels / 65_535).astype(np.float32)
    assert run(tmp_path / "model.onnx", images=intensities, rows=age[:, None]).ravel() == pytest.approx(expected, abs=1e-5)
    older = run(tmp_path / "model.onnx", images=intensities, rows=age[:, None] + 30).ravel()
    assert np.abs(older - expected).max() > 1e-3, "the column counts"
    mean = np.full((1, 1), made.version.moments().mean[0])
    gap = run(tmp_path / "model.onnx", images=intensities[:1], rows=np.full((1, 1), np.nan))
    assert gap == pytest.approx(run(tmp_path / "model.onnx", images=intensities[:1], rows=mean)), "a missing cell is filled in the graph"


def test_of_a_segmentation_the_graph_gives_each_pixel_its_classes_and_no_table_is_made(make: Make, tmp_path: Path) -> None:
    made = make(**SEGMENTED)
    assert export_onnx(made.version, tmp_path / "model.onnx") < 1e-5
    new = scans(98, 6)
    pixels = new.columns["scan"].values
    found = run(tmp_path / "model.onnx", images=(pixels / 65_535).astype(np.float32))
    assert found.shape == (6, 2, 9, 12)
    np.testing.assert_allclose(found, at_a_site(made, new), atol=1e-5)
    Image.fromarray(pixels[0, 0]).save(tmp_path / "0.png")
    with pytest.raises(NotAvailable, match="each pixel"):
        predict(made.version, tmp_path / "0.png")
