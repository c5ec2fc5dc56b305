"""Scores of a trained model for rows of a table that has no target: read by the study's columns, prepared as in training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aimer2.connectors.catalogue import kind_of, make_connector
from aimer2.connectors.mapping import DataMapping
from aimer2.connectors.table import Column, Table
from aimer2.core.errors import NotAvailable
from aimer2.core.study import Study
from aimer2.core.tree import Tree
from aimer2.learners.catalogue import make_learner
from aimer2.study import cohort

_NO_KEY = bytes(16)


def predict(study: Study, weights: Tree, moments: cohort.Moments | None, table: Table) -> npt.NDArray[Any]:
    """``(n, scores)`` in the order of `score_names`; NaN where the study leaves a row with missing values out.

    ``moments``: by which numbers were standardised in training; None: by those of this table.

    Raises NotAvailable for a study that brings its own code or tells a class for each pixel, BadData where the table is not as the study has it.
    """
    if study.cohort.target.kind == "segmentation":
        raise NotAvailable("A class for each pixel makes no table of scores.", remedy="Export the model with --to onnx.")
    if study.model.code is not None:
        remedy = "Export the weights, and use them with that code where you trust it."
        raise NotAvailable("The study brings its own code, which runs in the confined worker only.", remedy=remedy)
    design = cohort.design(study.cohort, table)
    rows = cohort.complete(design, study.cohort, moments or cohort.own_moments(design))
    learner = make_learner(study, feature_shape=rows.feature_shape, files={})
    learner.load(weights)
    found = learner.predict(rows)
    scores = np.full((len(table), len(score_names(study))), np.nan)
    # The pseudonyms of this table are its row numbers.
    scores[np.asarray(rows.patients, np.int64)] = found.reshape(len(rows), -1)
    return scores


def score_names(study: Study) -> Sequence[str]:
    """What each score is the probability or the estimate of; of a segmentation the classes, each with a score for every pixel."""
    target = study.cohort.target
    match target.kind:
        case "binary":
            return [target.categories[1] if target.categories else target.name]
        case "multiclass" | "segmentation":
            return list(target.categories)
        case "regression":
            return [target.name]
        case "multilabel":
            return [column.name for column in target.columns]
        case "survival":
            return [f"beyond {end:g}" for end in target.intervals] or ["log relative risk"]


def read_features(study: Study, file: Path, mapping: DataMapping) -> Table:
    """The features of the file's rows, CSV or Parquet; of a study of images an index of them, an archive, or one image. In place of the target,
    which new patients do not have, its first value."""
    kind = kind_of(file, images=study.cohort.image is not None)
    read = make_connector(kind, {"path": file}, mapping, split_key=_NO_KEY).read()
    count = len(read)
    columns = dict(read.columns)
    for asked in study.cohort.target.columns:
        number = Column("number", np.zeros(count), unit=asked.unit)
        columns[asked.name] = Column("category", np.zeros(count, np.int32), asked.categories) if asked.categories else number
    return Table(columns, np.arange(count, dtype=np.uint64))
