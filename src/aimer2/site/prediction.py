"""Predictions of a kept model for a file of the hospital's own: columns by the data set's mapping, prepared as in training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aimer2.connectors.mapping import DataMapping, read_mapping
from aimer2.connectors.table import Table
from aimer2.core.errors import BadInput
from aimer2.core.said import say
from aimer2.core.study import Study
from aimer2.messages.tensors import read_tree
from aimer2.site.folder import SiteFolder
from aimer2.site.models import Card, weights
from aimer2.study import prediction
from aimer2.study.cohort import Moments


def predict(folder: SiteFolder, card: Card, file: Path, *, dataset: str | None = None) -> tuple[Sequence[str], npt.NDArray[Any]]:
    """Names of the scores, and per row of the file its scores ``(n, scores)``; NaN where the study leaves a row with missing values out.

    The file needs the columns of the study's features as the data set's source has them, no target. Of a study of images it is an index of
    them, an archive, or one image. Raises as `aimer2.study.prediction`.
    """
    study = card.study
    names = prediction.score_names(study)
    table = _read(folder, dataset or study.cohort.dataset, study, file)
    moments = Moments(*(np.array(card.preparation[name]) for name in ("count", "mean", "deviation")))
    return names, prediction.predict(study, read_tree(weights(folder, card)), moments, table)


def _read(folder: SiteFolder, dataset: str, study: Study, file: Path) -> Table:
    path = folder.dataset(dataset) / "mapping.toml"
    if not path.is_file():
        raise BadInput(
            say("There is no data set '{dataset}' here, by whose mapping the file is read.", dataset=dataset), remedy="Name one with --dataset."
        )
    mapping, wanted = read_mapping(path), study.cohort.inputs
    if missing := [name for name in wanted if name not in mapping.columns]:
        raise BadInput(say("The mapping of '{dataset}' has no column {missing}.", dataset=dataset, missing=", ".join(missing)))
    features = DataMapping(columns={name: mapping.columns[name] for name in wanted}, missing=mapping.missing, decimal=mapping.decimal)
    return prediction.read_features(study, file, features)
