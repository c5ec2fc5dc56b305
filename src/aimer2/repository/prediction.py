"""Scores of a pulled version for a file of new patients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from aimer2.connectors.mapping import ColumnMapping, DataMapping, read_mapping
from aimer2.core.study import Feature, Study
from aimer2.repository.version import Version
from aimer2.study import prediction


def predict(version: Version, file: Path, mapping: Path | None = None) -> tuple[Sequence[str], npt.NDArray[Any]]:
    """Names of the scores, and per row of the file its scores ``(n, scores)``; NaN where the study leaves a row with missing values out.

    The file has a column per feature under the study's name and in its unit; or ``mapping`` says which is which, as a site's mapping does.

    Raises BadData where the columns are not the study's, NotAvailable for a study that brings its own code, Tampered as `Version.tree`.
    """
    study = version.study
    names = prediction.score_names(study)
    table = prediction.read_features(study, file, _mapping(study) if mapping is None else read_mapping(mapping))
    return names, prediction.predict(study, version.tree(), version.moments(), table)


def _mapping(study: Study) -> DataMapping:
    columns = {feature.name: _column(feature) for feature in study.cohort.features}
    if study.cohort.image is not None:
        columns[study.cohort.image.name] = ColumnMapping(kind="image")
    return DataMapping(columns=columns)


def _column(feature: Feature) -> ColumnMapping:
    if feature.kind == "category":
        return ColumnMapping(kind="category", categories=feature.categories)
    return ColumnMapping(unit=feature.unit)
