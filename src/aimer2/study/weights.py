"""Weights to start from: a safetensors file beside the study, whoever wrote it. A pulled version brings its record along, and must fit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, final

import numpy as np
from pydantic import ValidationError

from aimer2.core.errors import AimerError, BadInput, BadModel, Fault
from aimer2.core.protocols import Learner
from aimer2.core.said import say
from aimer2.core.study import Study
from aimer2.core.tree import NumpyArray
from aimer2.identity.documents import open_document
from aimer2.identity.keys import PublicKey
from aimer2.messages.record import StudyRecord

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


RECORD = "record.json"
"""What lies beside the weights of a pulled version."""

_PREPARED = ("image", "features", "missing", "standardise")
"""Places of a cohort that say how a row becomes what the model reads."""


@final
@dataclass(frozen=True, slots=True)
class Origin:
    """The study that a version of a model is of: its record, and the result in it."""

    record: StudyRecord
    result: Mapping[str, Any]


def faults(study: Study, folder: Path) -> list[Fault]:
    """Of a study that starts from a file: that the file is there and, where it is a pulled version's, that it reads what this study reads."""
    name = study.model.weights
    if name is None:
        return []
    if not (folder / name).is_file():
        return [Fault(f"model.weights ({name})", "is not beside the study", "put the file there")]
    return _faults_of_origin(study, folder / name) if (folder / RECORD).is_file() else []


def _faults_of_origin(study: Study, path: Path) -> list[Fault]:
    try:
        origin = read_origin(path)
    except BadInput as error:
        return [Fault(f"model.weights ({path.name})", error.sentence, "pull the version again, or remove the record")]
    return misfits(study, origin.record.package.study)


def read_origin(path: Path) -> Origin:
    """The record beside the weights. Raises BadInput where there is none, or it is of other weights."""
    try:
        record = StudyRecord.model_validate_json(path.with_name(RECORD).read_bytes())
        result = json.loads(open_document(record.result, PublicKey.from_text(record.key), kind="result"))
        weights = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise BadInput(say("is not beside the study, with its {record}", record=RECORD)) from None
    except (ValidationError, AimerError):
        raise BadInput(say("has a {record} beside it that is none", record=RECORD)) from None
    if result["study"] != record.study or result.get("preprocessing") is None or weights != result["model"]["sha256"]:
        raise BadInput(say("is not the model that the {record} beside it is of", record=RECORD))
    return Origin(record, result)


def misfits(study: Study, origin: Study) -> list[Fault]:
    """Where a study prepares its rows otherwise, or has another architecture, than the study whose model it takes; of one that measures that model
    also another target."""
    use, places = ("to start from", _PREPARED) if study.evaluates is None else ("that it measures", (*_PREPARED, "target"))
    remedy = "take another version, or ask for the same"
    asked, trained = (one.cohort.model_dump(mode="json") for one in (study, origin))
    found = [
        Fault(f"cohort.{name}", say("is not that of the model {use} ('{name}')", use=use, name=origin.name), remedy)
        for name in places
        if asked.get(name) != trained.get(name)
    ]
    if (study.model.name, study.model.options) != (origin.model.name, origin.model.options):
        found.append(
            Fault("model", say("is not the architecture of the model {use}: {name}", use=use, name=origin.model.name or origin.model.code), remedy)
        )
    elif study.evaluates is not None and study.model.framework != origin.model.framework:
        found.append(Fault("model.framework", say("is not that of the model {use}: {framework}", use=use, framework=origin.model.framework), remedy))
    return found


def load_given(learner: Learner, path: Path) -> None:
    """Puts the file's leaves into the model; leaves that the file does not have, as a new head, stay as they are.

    Raises BadModel where the file has a leaf that the model has not, or of another shape, or is no such file.
    """
    own = learner.parameters()
    given = read_weights(path)
    if odd := sorted(given.keys() - own.keys()):
        raise BadModel(
            say(
                "{name} has leaves that the model has not: {odd}. The model has {own} …",
                name=path.name,
                odd=", ".join(odd[:3]),
                own=", ".join(sorted(own)[:6]),
            )
        )
    for name, leaf in given.items():
        if leaf.shape != own[name].shape:
            message = "{name} has shape {given} in {file}, {own} in the model. Leave it out of the file where it is to be trained anew."
            raise BadModel(say(message, name=name, given=leaf.shape, file=path.name, own=tuple(own[name].shape)))
    learner.load({name: given[name].astype(leaf.dtype) if name in given else leaf for name, leaf in own.items()})


def read_weights(path: Path) -> dict[str, NumpyArray]:
    """All floating-point leaves of the file, half precision as float32; integers (batches counted) are left out. Raises BadModel."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        entries: dict[str, Mapping[str, Any]] = json.loads(data[8:start])
        entries.pop("__metadata__", None)
        return {name: _leaf(data[start:], entry) for name, entry in entries.items() if entry["dtype"] in _TYPES}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadModel(say("{name} is not a file in safetensors format.", name=path.name)) from None


def _leaf(data: bytes, entry: Mapping[str, Any]) -> NumpyArray:
    low, high = entry["data_offsets"]
    dtype = np.dtype(_TYPES[entry["dtype"]])
    if high - low != prod(entry["shape"]) * dtype.itemsize or not 0 <= low <= high <= len(data):
        raise ValueError
    leaf = np.frombuffer(data[low:high], dtype).reshape(entry["shape"])
    if entry["dtype"] == "BF16":
        return (leaf.astype(np.uint32) << 16).view(np.float32)
    return leaf.astype(np.float32) if entry["dtype"] == "F16" else leaf
