"""A study that measures a model that is there, and trains none: which version it is, that it fits, and how rows are prepared for it.

The version lies beside the study as it was pulled: weights and record. What it was trained with, it is measured with: the same columns, the same rule
for missing values, and the means and deviations of its own training, which its signed record holds. So nothing of the hospitals' data goes into
the model's inputs but the patient's own row.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aimer2.blobs.memory import MemoryStore
from aimer2.core.errors import BadInput, BadModel, Fault
from aimer2.core.protocols import BlobStore, Learner
from aimer2.core.said import say
from aimer2.core.study import Study
from aimer2.core.task import BlobRef
from aimer2.core.tree import Tree
from aimer2.messages.package import Package
from aimer2.messages.tensors import read_tree
from aimer2.study.checkpoint import store
from aimer2.study.weights import Origin, misfits, read_origin

VERSION = 1
"""Changes whenever the way in which a model is measured does; a site refuses a version that it does not have."""

_PULL = "pull the version into the study's folder: aimer2 model pull MODEL FOLDER"


def faults(study: Study) -> list[Fault]:
    """Of what a study that measures a model asks for; needs none of the files beside it."""
    found = []
    if study.model.weights is None:
        found.append(Fault("model.weights", "is missing: the model that is measured", _PULL))
    if study.evaluation.held_out == 0:
        found.append(Fault("evaluation.held_out", "is 0, so nobody is left to measure the model on", "set it to 1 for all patients, or leave it out"))
    if study.cohort.group is not None:
        found.append(Fault("cohort.group", "is given, and an evaluation looks at no groups", "leave it out"))
    if study.privacy.group_size is not None:
        found.append(Fault("privacy.group_size", "is given, and an evaluation needs only the sum of all sites", "leave it out"))
    return found


def faults_of_version(study: Study, folder: Path) -> list[Fault]:
    """Whether the version beside the study is the one that it names, and reads what the study reads."""
    name = study.model.weights
    if name is None:
        return []
    try:
        origin = read_origin(folder / name)
    except BadInput as error:
        return [Fault(f"model.weights ({name})", error.sentence, _PULL)]
    found = misfits(study, origin.record.package.study)
    if origin.record.study != study.evaluates:
        found.append(
            Fault(
                "evaluates",
                say("is not the study of the version beside it, {study}…", study=origin.record.study[:16]),
                "give that one's whole digest",
            )
        )
    return found + _code(study, folder, origin.record.package)


def _code(study: Study, folder: Path, origin: Package) -> list[Fault]:
    name = study.model.code
    if name is None or not (folder / name).is_file():
        return []
    writer = MemoryStore().create()
    writer.write((folder / name).read_bytes())
    if writer.commit() in origin.files.values():
        return []
    return [Fault(f"model.code ({name})", "is not the code that the version was trained with", "put that file there, to the last byte")]


def bring(study: Study, folder: Path, learner: Learner, blobs: BlobStore) -> tuple[BlobRef, BlobRef | None]:
    """The version's weights, byte by byte, and the means and deviations that its inputs need; stored.

    Raises BadInput where there is no such version beside the study, BadModel where its weights are not those of the study's architecture.
    """
    assert study.model.weights is not None
    path = folder / study.model.weights
    origin = read_origin(path)
    writer = blobs.create()
    writer.write(path.read_bytes())
    weights = writer.commit()
    if weights.sha256 != origin.result["model"]["sha256"]:
        raise BadModel(say("{name} is not the model that the record beside it is of.", name=path.name))
    learner.load(read_tree(blobs.open(weights)))
    moments = moments_of(origin.result)
    return weights, None if moments is None else store(moments, blobs)


def moments_of(result: Mapping[str, Any]) -> Tree | None:
    """By which numbers the model's inputs are standardised, of a signed result: ``count``, ``mean``, ``deviation``, each float64 ``(p,)``; counts as
    they were told, 0 where they were not. None: by those of each data set itself, or not at all."""
    told = result["preprocessing"]["moments"]
    if told is None:
        return None
    counts = [0 if value is None else value for value in told["count"]]
    return {"count": np.array(counts, np.float64), "mean": np.array(told["mean"], np.float64), "deviation": np.array(told["deviation"], np.float64)}


def faults_of_package(package: Package, origin: Origin | None) -> list[Fault]:
    """Whether a submitted study measures the very model that it names, with the inputs of its training: for a coordinator. ``origin`` None: it does
    not know that model, and takes the submitter's word for it."""
    if origin is None:
        if package.study.cohort.common_moments == (package.moments is not None):
            return []
        return [Fault("moments", "are missing, or are given where the study needs none", _PULL)]
    study, result = package.study, origin.result
    found = misfits(study, origin.record.package.study)
    if package.initial.sha256 != result["model"]["sha256"]:
        found.append(Fault("initial", "is not the model that the study named by `evaluates` has left", _PULL))
    if package.files != origin.record.package.files:
        found.append(Fault("files", "are not the code that the model was trained with", "submit the study with that code"))
    moments = moments_of(result)
    if package.moments != (None if moments is None else store(moments, MemoryStore())):
        found.append(Fault("moments", "are not the means and deviations of the model's training", _PULL))
    return found
