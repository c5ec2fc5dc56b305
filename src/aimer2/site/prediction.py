"""Predictions of a kept model for a file of the hospital's own: columns by the data set's mapping, prepared as in training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aimer2.connectors.catalogue import kind_of, make_connector
from aimer2.connectors.mapping import DataMapping, read_mapping
from aimer2.connectors.table import Column, Table
from aimer2.core.errors import BadInput, NotAvailable
from aimer2.core.study import Study
from aimer2.learners.catalogue import make_learner
from aimer2.messages.tensors import read_tree
from aimer2.site.folder import SiteFolder
from aimer2.site.models import Card, weights
from aimer2.study import cohort

_NO_KEY = bytes(16)


def predict(folder: SiteFolder, card: Card, file: Path, *, dataset: str | None = None) -> tuple[Sequence[str], npt.NDArray[Any]]:
    """Names of the scores, and per row of the file its scores ``(n, scores)``; NaN where the study leaves a row with missing values out.

    The file needs the columns of the study's features as the data set's source has them, no target. Of a study of images it is an index of
    them, an archive, or one image.

    Raises NotAvailable for a study that brings its own code: that runs in the confined worker only.
    """
    study = card.study
    if study.model.code is not None:
        remedy = "Export the weights with `aimer2 site model export`, and use them with that code where you trust it."
        raise NotAvailable("The study brings its own code, which runs in the confined worker only.", remedy=remedy)
    table = _read(folder, dataset or study.cohort.dataset, study, file)
    design = cohort.design(study.cohort, table)
    moments = cohort.Moments(*(np.array(card.preparation[name]) for name in ("count", "mean", "deviation")))
    rows = cohort.complete(design, study.cohort, moments)
    learner = make_learner(study, feature_shape=rows.feature_shape, files={})
    learner.load(read_tree(weights(folder, card)))
    found = learner.predict(rows)
    names = _names(study)
    scores = np.full((len(table), len(names)), np.nan)
    # The pseudonyms of this table are its row numbers.
    scores[np.asarray(rows.patients, np.int64)] = found.reshape(len(rows), -1)
    return names, scores


def _names(study: Study) -> Sequence[str]:
    target = study.cohort.target
    match target.kind:
        case "binary":
            return [target.categories[1] if target.categories else target.name]
        case "multiclass":
            return list(target.categories)
        case "regression":
            return [target.name]
    raise NotAvailable(f"Predictions of a {target.kind} target are not available here.", remedy="Export the weights.")


def _read(folder: SiteFolder, dataset: str, study: Study, file: Path) -> Table:
    """The features of the file's rows; in place of the target, which new patients do not have, its first value."""
    path = folder.dataset(dataset) / "mapping.toml"
    if not path.is_file():
        raise BadInput(f"There is no data set '{dataset}' here, by whose mapping the file is read.", remedy="Name one with --dataset.")
    mapping, image = read_mapping(path), study.cohort.image
    wanted = study.cohort.inputs
    if missing := [name for name in wanted if name not in mapping.columns]:
        raise BadInput(f"The mapping of '{dataset}' has no column {', '.join(missing)}.")
    features = DataMapping(columns={name: mapping.columns[name] for name in wanted}, missing=mapping.missing, decimal=mapping.decimal)
    read = make_connector(kind_of(file, images=image is not None), {"path": file}, features, split_key=_NO_KEY).read()
    count = len(read)
    columns = dict(read.columns)
    for asked in study.cohort.target.columns:
        number = Column("number", np.zeros(count), unit=asked.unit)
        columns[asked.name] = Column("category", np.zeros(count, np.int32), asked.categories) if asked.categories else number
    return Table(columns, np.arange(count, dtype=np.uint64))
