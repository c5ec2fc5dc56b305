"""From a study and the code beside it to the package that is submitted: its untrained weights, its code, whom it asks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from aimer2.algorithms import catalogue
from aimer2.core.protocols import BlobStore, Learner
from aimer2.core.random import stream
from aimer2.core.study import Study
from aimer2.core.task import BlobRef, SiteId
from aimer2.learners.catalogue import make_learner
from aimer2.messages.package import Package
from aimer2.study import compressing, evaluating
from aimer2.study.analysing import VERSION, versions_of
from aimer2.study.checkpoint import store
from aimer2.study.cohort import feature_shape as shape_of
from aimer2.study.weights import load_given


def pack(study: Study, folder: Path, roster: Mapping[SiteId, str], blobs: BlobStore, *, feature_shape: tuple[int, ...] | None = None) -> Package:
    """Builds the model once, here, so that the coordinator builds none; ``feature_shape`` for rows that are no table.

    Raises BadModel where the model cannot be built, BadStudy where the method does not fit it; of a study that measures a model, as
    `evaluating.bring`.
    """
    if study.analyses:
        return Package(
            study=study, method_version=VERSION, versions=versions_of(study), initial=store({}, blobs), roster=dict(sorted(roster.items()))
        )
    files = {} if study.model.code is None else {study.model.code: folder / study.model.code}
    shape = shape_of(study.cohort) if feature_shape is None else feature_shape
    learner = make_learner(study, feature_shape=shape, files=files, device="cpu")
    if study.evaluates is not None:
        initial, moments = evaluating.bring(study, folder, learner, blobs)
        return Package(
            study=study,
            method_version=evaluating.VERSION,
            files=_stored(files, blobs),
            initial=initial,
            moments=moments,
            roster=dict(sorted(roster.items())),
        )
    initialise(learner, study)
    if study.model.weights is not None:
        load_given(learner, folder / study.model.weights)
    method = catalogue.make(study.method.name, study.method.rounds, study.method.parameters)
    catalogue.check(method, learner)
    compressing.refuse_vectors(study, method, learner.parameters())
    initial = store({name: np.asarray(leaf) for name, leaf in learner.parameters().items()}, blobs)
    return Package(
        study=study,
        method_version=catalogue.version(study.method.name),
        files=_stored(files, blobs),
        initial=initial,
        roster=dict(sorted(roster.items())),
    )


def _stored(files: Mapping[str, Path], blobs: BlobStore) -> dict[str, BlobRef]:
    stored = {}
    for name, path in files.items():
        writer = blobs.create()
        writer.write(path.read_bytes())
        stored[name] = writer.commit()
    return stored


def initialise(learner: Learner, study: Study) -> None:
    """Untrained weights from the study's seed."""
    learner.initialise(stream(study.seed, "initial"))
