"""A version handed on: as an ONNX file that any runtime computes, or as a plain folder of weights, configuration and card."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from aimer2.core.errors import Conflict, NotAvailable
from aimer2.core.said import say
from aimer2.learners.catalogue import make_learner
from aimer2.repository.card import as_html, as_markdown, card
from aimer2.repository.inputs import inputs_of
from aimer2.repository.version import WEIGHTS, Version
from aimer2.study import cohort
from aimer2.study.images import FLAT
from aimer2.study.prediction import score_names


def export_onnx(version: Version, path: Path) -> float:
    """Writes the model with the preparation of its inputs; returns by how much a score differs at most from the original's on drawn inputs.

    Raises NotAvailable for a model that is not PyTorch's, that brings its own code, or whose rows ONNX cannot prepare; Tampered as `Version.tree`.
    """
    study = version.study
    if study.model.framework != "torch" or study.model.code is not None:
        remedy = "Export it with --to folder, and use the weights with its framework."
        raise NotAvailable("Only the named PyTorch models are exported as ONNX.", remedy=remedy)
    if study.cohort.standardise == "site" and study.cohort.features:
        raise NotAvailable("Each hospital has standardised by its own mean and deviation, which the model does not hold.")
    learner = make_learner(study, feature_shape=cohort.feature_shape(study.cohort), files={}, device="cpu")
    learner.load(version.tree())
    moments = version.moments() or cohort.Moments(*np.zeros((3, cohort.design_width(study.cohort))))
    numeric = np.array(cohort.numeric_columns(study.cohort))
    put = cohort.in_place_of_missing(study.cohort, numeric, moments) if study.cohort.missing in ("mean", "zero") else None
    onnx = _torch_onnx()
    preparation = onnx.Preparation(put, *cohort.scaling(study.cohort, numeric, moments), study.cohort.image, FLAT)
    notes = {
        "study": version.digest,
        "model": version.model.sha256,
        "inputs": json.dumps(inputs_of(study.cohort)),
        "scores": json.dumps(list(score_names(study))),
    }
    return float(onnx.write_onnx(learner, preparation, path, notes, np.random.default_rng(0)))


def export_folder(version: Version, folder: Path) -> None:
    """Weights, configuration (how to build the model and prepare its inputs) and card, as files that need nothing of AIMER2's.

    Raises Conflict where the folder is there already, Tampered as `Version.tree`.
    """
    version.tree()
    assert version.weights is not None
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise Conflict(say("{folder} is there already.", folder=folder), remedy="Name a folder that is not.") from None
    shutil.copyfile(version.weights, folder / WEIGHTS)
    study = version.study
    config: dict[str, Any] = {
        "study": version.digest,
        "model": study.model.model_dump(mode="json", exclude={"weights"}),
        "weights": {"file": WEIGHTS, "sha256": version.model.sha256},
        "inputs": inputs_of(study.cohort),
        "preprocessing": version.result["preprocessing"],
        "target": study.cohort.target.model_dump(mode="json"),
        "stage": version.stage,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
    made = card(version)
    (folder / "card.md").write_text(as_markdown(made), "utf-8")
    (folder / "card.html").write_text(as_html(made), "utf-8")


def _torch_onnx() -> Any:
    try:
        return importlib.import_module("aimer2.learners.torch_onnx")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("onnx", "onnxruntime", "onnxscript"):
            raise
        raise NotAvailable(
            say("ONNX needs {name}, which is not installed here.", name=error.name), remedy="Install it: pip install 'aimer2[onnx]'"
        ) from None
