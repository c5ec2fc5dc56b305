"""One version of a model: the record of the study that made it, opened with the coordinator's key, and its weights where they are at hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from pydantic import ValidationError

from aimer2.blobs.folder import FileBlob
from aimer2.core import tree
from aimer2.core.errors import BadInput, NotFound, Tampered
from aimer2.core.said import say
from aimer2.core.study import Study
from aimer2.core.task import BlobRef
from aimer2.core.tree import Tree
from aimer2.identity.documents import open_document
from aimer2.identity.keys import PublicKey
from aimer2.messages.record import STAGE_KIND, ModelStage, StageChange, StudyRecord
from aimer2.messages.tensors import read_tree
from aimer2.study.cohort import Moments
from aimer2.study.evaluating import moments_of
from aimer2.study.weights import RECORD

WEIGHTS, KEY = "model.safetensors", "coordinator.key"
"""Files of a version's folder, beside `RECORD`."""


@final
@dataclass(frozen=True, slots=True)
class Version:
    """What the coordinator has signed of a model. ``weights``: a safetensors file; None where it is not at hand."""

    record: StudyRecord
    result: Mapping[str, Any]
    stages: tuple[StageChange, ...]
    key: PublicKey
    weights: Path | None = None
    evaluations: tuple[Mapping[str, Any], ...] = ()
    """The results of the studies that have measured it, the oldest first."""

    @property
    def digest(self) -> str:
        return self.record.study

    @property
    def study(self) -> Study:
        return self.record.package.study

    @property
    def model(self) -> BlobRef:
        return BlobRef(**self.result["model"])

    @property
    def stage(self) -> ModelStage:
        return self.stages[-1].stage if self.stages else "candidate"

    def tree(self) -> Tree:
        """The weights, memory-mapped. Raises NotFound where they are not at hand, Tampered where they are not those of the record."""
        if self.weights is None or not self.weights.is_file():
            raise NotFound("The weights of this version are not at hand.", remedy="`aimer2 model pull` brings them.")
        blob = FileBlob(self.model, self.weights)
        if self.weights.stat().st_size != self.model.size or hashlib.sha256(blob.view()).hexdigest() != self.model.sha256:
            raise Tampered("The weights are not those that the record names.", remedy="Pull the version again.")
        return read_tree(blob)

    def moments(self) -> Moments | None:
        """By which numbers are standardised before the model sees them; None: by those of each data set itself, or not at all."""
        found = moments_of(self.result)
        return None if found is None else Moments(**{name: tree.load(leaf) for name, leaf in found.items()})


def open_version(record: StudyRecord, key: PublicKey, weights: Path | None = None) -> Version:
    """Raises Tampered or NotAuthenticated unless ``key`` has signed the result, every stage and every evaluation, and all are of this study."""
    result: dict[str, Any] = json.loads(open_document(record.result, key, kind="result"))
    if result.get("preprocessing") is None:
        raise BadInput("This record is not of a model, or of an early version of AIMER2 and does not say how the model's inputs are prepared.")
    stages = tuple(StageChange.model_validate_json(open_document(text, key, kind=STAGE_KIND)) for text in record.stages)
    if result["study"] != record.study or any(one.study != record.study for one in stages):
        raise Tampered("The record holds signed documents of another study.")
    evaluations: list[dict[str, Any]] = [json.loads(open_document(text, key, kind="result")) for text in record.evaluations]
    if any(one.get("evaluation", {}).get("of") != record.study or one["model"] != result["model"] for one in evaluations):
        raise Tampered("The record holds evaluations of another model.")
    return Version(record, result, stages, key, weights, tuple(evaluations))


def read_version(folder: Path, key: PublicKey | None = None) -> Version:
    """A pulled version. Without ``key``, the one that was known when it was pulled. Raises NotFound, BadInput, and as `open_version`."""
    try:
        record = StudyRecord.model_validate_json((folder / RECORD).read_bytes())
        known = key or PublicKey.from_text((folder / KEY).read_text("ascii").strip())
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(say("{folder} is no folder of a pulled model.", folder=folder), remedy="Pull one: aimer2 model pull NAME FOLDER") from None
    except (ValidationError, UnicodeDecodeError):
        raise BadInput(say("{folder} is not a record of a study of this version of AIMER2.", folder=folder / RECORD)) from None
    return open_version(record, known, folder / WEIGHTS)


def write_version(folder: Path, version: Version) -> None:
    """The record and the key beside the weights that are there already: a version is whole when its record is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / KEY).write_text(version.key.text + "\n", "ascii")
    draft = folder / f".{RECORD}.draft"
    draft.write_text(version.record.model_dump_json(indent=1), "utf-8")
    draft.replace(folder / RECORD)
