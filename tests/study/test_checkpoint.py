"""A method's state as a small document and blobs, and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.blobs.folder import FolderStore
from aimer2.blobs.memory import MemoryStore
from aimer2.core import tree
from aimer2.core.errors import BadUpdate
from aimer2.core.task import BlobRef
from aimer2.study.checkpoint import StoredTree, blobs_of, load_state, save_state, store


@dataclass(frozen=True)
class State:
    model: Any
    control: Any
    round_number: int = 0
    scale: float = 1.0


def state() -> State:
    return State({"w": np.arange(3.0), "n": np.array([2], np.int64)}, {"w": np.ones(3, np.float32)}, 4, 0.5)


def test_a_state_comes_back_from_a_document_that_is_json() -> None:
    blobs = MemoryStore()
    document = json.loads(json.dumps(save_state(state(), blobs)))
    again = load_state(State, document, blobs)
    assert (again.round_number, again.scale) == (4, 0.5)
    assert {name: tree.load(leaf).tolist() for name, leaf in again.model.items()} == {"w": [0, 1, 2], "n": [2]}
    assert again.control["w"].dtype == np.float32
    assert blobs_of(document) == {document["model"]["sha256"], document["control"]["sha256"]}


def test_saving_what_was_loaded_writes_nothing(tmp_path: Path) -> None:
    blobs = FolderStore(tmp_path)
    document = save_state(state(), blobs)
    loaded = load_state(State, document, blobs)
    blobs.create = None  # type: ignore[method-assign,assignment]
    assert save_state(loaded, blobs) == document
    assert store(loaded.model, blobs) == BlobRef(**document["model"])


def test_a_number_that_is_not_finite_is_not_kept(tmp_path: Path) -> None:
    blobs = FolderStore(tmp_path)
    large = np.zeros(200_000)
    large[-1] = np.inf
    for bad in (np.array([np.nan]), large):
        with pytest.raises(BadUpdate, match="not finite"):
            save_state(State({"w": bad}, {}), blobs)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "sqlite" not in path.name], "nothing half-written stays"


def test_a_stored_tree_names_its_blob() -> None:
    blobs = MemoryStore()
    ref = store({"w": np.ones(2)}, blobs)
    assert StoredTree(ref, blobs).ref == ref
    assert store(dict(StoredTree(ref, blobs)), blobs) == ref
