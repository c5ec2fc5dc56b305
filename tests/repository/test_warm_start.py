"""A study that starts from a pulled version reads what that version was trained on, or is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_versions import packed, study_of

from aimer2.blobs.memory import MemoryStore
from aimer2.core.clock import SystemClock
from aimer2.messages.tensors import read_tree
from aimer2.study.check import check
from aimer2.study.pack import pack

Make = Callable[..., Any]
MODEL = {"framework": "torch", "name": "mlp", "options": {"hidden": [8]}, "weights": "model.safetensors"}


def places(folder: Path, **changes: Any) -> list[str]:
    return [fault.place for fault in check(study_of(**({"model": MODEL} | changes)), folder, SystemClock())]


def test_it_starts_where_the_version_ended(make: Make) -> None:
    made = make()
    folder = made.weights.parent
    assert places(folder) == []
    blobs = MemoryStore()
    started = read_tree(blobs.open(pack(study_of(model=MODEL), folder, {"north": "key"}, blobs).initial))
    for name, leaf in made.simulation.model.items():
        assert np.array_equal(np.asarray(started[name]), leaf)
    assert packed(study_of()).initial.sha256 != made.version.model.sha256, "it has been trained"


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"standardise": "none"}, "cohort.standardise"),
        ({"missing": "zero"}, "cohort.missing"),
        ({"features": [{"name": "age"}, {"name": "chol"}]}, "cohort.features"),
        ({"features": [{"name": "age", "unit": "a"}, *study_of().cohort.model_dump()["features"][1:]]}, "cohort.features"),
    ],
)
def test_a_study_that_prepares_its_rows_in_another_way_is_refused(make: Make, changes: dict[str, Any], place: str) -> None:
    folder = make().weights.parent
    assert places(folder, cohort=study_of().cohort.model_dump() | changes) == [place]


def test_another_architecture_is_refused(make: Make) -> None:
    folder = make().weights.parent
    assert places(folder, model=MODEL | {"options": {"hidden": [9]}}) == ["model"]


def test_weights_that_are_not_those_of_the_record_are_refused(make: Make) -> None:
    first, second = make("first"), make("second", seed=2)
    shutil.copyfile(second.weights, first.weights)
    assert places(first.weights.parent) == ["model.weights (model.safetensors)"]
    (first.weights.parent / "record.json").write_text("{}")
    assert places(first.weights.parent) == ["model.weights (model.safetensors)"]
    (first.weights.parent / "record.json").unlink()
    assert places(first.weights.parent) == [], "a file of whoever wrote it"
