"""A study that starts from a model file: its leaves, whoever wrote it; what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.blobs.memory import MemoryStore
from aimer2.core.clock import SystemClock
from aimer2.core.errors import BadModel, BadStudy
from aimer2.core.study import Study
from aimer2.messages.tensors import read_tree
from aimer2.study.check import check
from aimer2.study.pack import pack
from aimer2.study.weights import read_weights


def study_of(**model: Any) -> Study:
    return Study(
        name="start",
        question="Does it start from what it was given?",
        purpose="test",
        ethics="none needed",
        principal_investigator="Test Person",
        expires="2100-01-01",
        cohort={"dataset": "d", "features": [{"name": "x"}, {"name": "z"}], "target": {"name": "y"}},
        model={"framework": "numpy", "name": "logistic", "weights": "base.safetensors"} | model,
        privacy={"secure_aggregation": False, "why_not_secure": "a test"},
    )


def write(path: Path, leaves: dict[str, tuple[str, list[int], bytes]], metadata: bool = True) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}} if metadata else {}
    data = b""
    for name, (dtype, shape, content) in leaves.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def initial(study: Study, folder: Path) -> dict[str, list[float]]:
    blobs = MemoryStore()
    made = read_tree(blobs.open(pack(study, folder, {"north": "key"}, blobs).initial))
    return {name: np.asarray(leaf).tolist() for name, leaf in made.items()}


def test_it_starts_from_the_file_and_the_rest_as_it_was(tmp_path: Path) -> None:
    write(tmp_path / "base.safetensors", {"coefficients": ("F32", [2], np.array([1.5, -2], "<f4").tobytes())})
    assert check(study_of(), tmp_path, SystemClock()) == []
    assert initial(study_of(), tmp_path) == {"coefficients": [1.5, -2.0], "intercept": [0.0]}


def test_half_precision_is_read_and_integers_are_left_out(tmp_path: Path) -> None:
    leaves = {
        "z": ("I64", [1], np.array([3], "<i8").tobytes()),
        "a": ("F16", [2], np.array([0.5, -3], "<f2").tobytes()),
        "b": ("BF16", [2], (np.array([0.5, -3], "<f4").view("<u4") >> 16).astype("<u2").tobytes()),
    }
    write(tmp_path / "w.safetensors", leaves)
    assert {name: leaf.tolist() for name, leaf in read_weights(tmp_path / "w.safetensors").items()} == {"a": [0.5, -3.0], "b": [0.5, -3.0]}


@pytest.mark.parametrize(
    ("leaves", "told"),
    [
        ({"slope": ("F64", [1], bytes(8))}, "leaves that the model has not: slope"),
        ({"coefficients": ("F64", [1], bytes(8))}, r"coefficients has shape \(1,\)"),
        ({"coefficients": ("F64", [2], bytes(8))}, "not a file in safetensors"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, leaves: Any, told: str) -> None:
    write(tmp_path / "base.safetensors", leaves)
    with pytest.raises(BadModel, match=told):
        initial(study_of(), tmp_path)


def test_a_file_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    (fault,) = check(study_of(), tmp_path, SystemClock())
    assert fault.place == "model.weights (base.safetensors)"
    with pytest.raises(BadStudy, match="weights"):
        study_of(weights="../base.safetensors")
    (tmp_path / "base.safetensors").write_bytes(b"no header")
    with pytest.raises(BadModel, match="not a file in safetensors"):
        initial(study_of(), tmp_path)


def test_a_method_that_does_not_fit_the_model_is_refused_before_any_site_is_asked(tmp_path: Path) -> None:
    study = Study(**study_of(weights=None).model_dump() | {"method": {"name": "fedbn"}})
    with pytest.raises(BadStudy, match="no layer with running means"):
        initial(study, tmp_path)
    study = Study(**study_of(weights=None).model_dump() | {"method": {"name": "fedper", "parameters": {"head": "last"}}})
    with pytest.raises(BadStudy, match="no layer or leaf 'last'"):
        initial(study, tmp_path)
    study = Study(**study_of(weights=None).model_dump() | {"method": {"name": "lora"}})
    assert [fault.problem for fault in check(study, tmp_path, SystemClock())] == ["lora works on models of torch, not on those of numpy"]
    alone = {"method": {"name": "cyclic_weight_transfer", "aggregator": "median"}, "evaluation": {"held_out": 0}}
    study = Study(**study_of(weights=None).model_dump() | alone | {"sites": {"minimum": 3}})
    assert [fault.place for fault in check(study, tmp_path, SystemClock())] == ["method.aggregator"]
    study = Study(**study_of(weights=None).model_dump() | {"method": {"name": "ditto"}, "evaluation": {"held_out": 0}})
    assert [fault.place for fault in check(study, tmp_path, SystemClock())] == ["evaluation.held_out"]
