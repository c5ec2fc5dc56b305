"""Patients who never lived, of the form that a study asks for: to try the study's method and code before there are data."""

from __future__ import annotations

import numpy as np

from aimer2.connectors.table import Column, Table, pseudonyms
from aimer2.core.random import stream
from aimer2.core.study import Feature, Study, Target

_PATIENTS = 200


def made_up_patients(study: Study) -> dict[str, Table]:
    """A table for each site that the study names, or for three; nothing in it tells anything of the target."""
    names = study.sites.names or tuple(f"site-{number}" for number in range(1, max(3, study.sites.minimum) + 1))
    return {site: _table(study, site) for site in names}


def _table(study: Study, site: str) -> Table:
    rng = stream(study.seed, "made-up patients", site)
    count = max(_PATIENTS, 2 * study.cohort.minimum_patients)
    columns = {feature.name: _feature(feature, count, rng) for feature in study.columns}
    if (image := study.cohort.image) is not None:
        kind = np.uint16 if image.bits == 16 else np.uint8
        columns[image.name] = Column("image", rng.integers(np.iinfo(kind).max, size=(count, *image.shape), dtype=kind))
    shape = image.shape[1:] if image is not None and study.cohort.target.kind == "segmentation" else None
    columns |= {asked.name: _target(asked, study.cohort.target, count, rng, shape) for asked in study.cohort.target.columns}
    return Table(columns, pseudonyms([str(number) for number in range(count)], bytes(16)))


def _feature(feature: Feature, count: int, rng: np.random.Generator) -> Column:
    if feature.kind == "category":
        return _category(feature.categories, count, rng)
    low, high = feature.minimum, feature.maximum
    low = (0.0 if high is None else high - 1.0) if low is None else low
    return Column("number", rng.uniform(low, low + 1.0 if high is None else high, count), unit=feature.unit)


def _target(asked: Target, whole: Target, count: int, rng: np.random.Generator, shape: tuple[int, ...] | None) -> Column:
    """One column of the target."""
    if shape is not None:
        return Column("mask", rng.integers(len(asked.categories), size=(count, *shape), dtype=np.uint8), asked.categories)
    if asked.categories:
        return _category(asked.categories, count, rng)
    if asked.kind == "binary":
        return Column("number", rng.integers(2, size=count).astype(np.float64), unit=asked.unit)
    end = max(whole.intervals, default=1.0)
    values = rng.uniform(0, 1.5 * end, count) if whole.kind == "survival" else rng.normal(size=count)
    return Column("number", values, unit=asked.unit)


def _category(categories: tuple[str, ...], count: int, rng: np.random.Generator) -> Column:
    return Column("category", rng.integers(len(categories), size=count, dtype=np.int32), categories)
