"""The bytes of every message version, as they lie in files here. A change that moves one is a new version of that message.

``documents-1.jsonl`` has one line per message: the class's name and the document with every field set.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.blobs.memory import MemoryBlob, MemoryStore
from aimer2.core import task
from aimer2.core.task import BlobRef, Document, Telling
from aimer2.messages import consortium, drafts, package, people, record, told, wire
from aimer2.messages.tensors import read_tree, write_tree
from aimer2.study import events

HERE = Path(__file__).parent
MODULES = (task, wire, people, consortium, drafts, record, told, events)
LINES = [line.split(" ", 1) for line in (HERE / "documents-1.jsonl").read_text().splitlines()]


def kinds() -> dict[str, type[Document]]:
    own = [pair for module in MODULES for pair in inspect.getmembers(module, inspect.isclass) if pair[1].__module__ == module.__name__]
    return {name: kind for name, kind in own if issubclass(kind, Document) and kind not in (Document, Telling)}


def test_every_message_is_here_with_every_field_set() -> None:
    found = {name: json.loads(text).keys() for name, text in LINES}
    assert found == {name: kind.model_fields.keys() for name, kind in kinds().items()}


@pytest.mark.parametrize(("name", "text"), LINES, ids=[name for name, _ in LINES])
def test_a_message_of_version_1_is_read_and_written_as_it_was(name: str, text: str) -> None:
    assert kinds()[name].model_validate_json(text).model_dump_json() == text


def test_a_decision_from_before_rosters_is_read() -> None:
    text = next(text for name, text in LINES if name == "Decision")
    before = {name: value for name, value in json.loads(text).items() if name != "roster"}
    read = wire.Decision.model_validate(before)
    assert read.roster is None and read.model_dump(exclude={"roster"}) == before


@pytest.mark.parametrize(
    ("name", "added"),
    [
        ("Task", {"phase": "update", "message": "", "counted": 0, "packed": {}}),
        ("Answer", {"message": "", "released": ()}),
        ("RoundFinished", {"secrecy": None, "bytes_sent": 0, "traffic": {}}),
    ],
)
def test_a_message_from_before_later_fields_is_read(name: str, added: Mapping[str, Any]) -> None:
    text = next(text for line, text in LINES if line == name)
    before = {field: value for field, value in json.loads(text).items() if field not in added}
    read = kinds()[name].model_validate(before)
    assert {field: getattr(read, field) for field in added} == added


TREE: dict[str, Any] = {
    "head.weight": np.array([[1.5, -2.25], [0.1, 3e38]], np.float32),
    "head.bias": np.array([0.1, -0.0, 1e-300]),
    "count": np.array(2**53 + 1, np.int64),
    "ß": np.zeros((0, 3)),
}


def test_a_tensor_blob_of_version_1() -> None:
    stored = (HERE / "tensors-1.safetensors").read_bytes()
    store = MemoryStore()
    writer = store.create()
    write_tree(TREE, writer)
    assert bytes(store.open(writer.commit()).view()) == stored
    found = read_tree(MemoryBlob(BlobRef(sha256=hashlib.sha256(stored).hexdigest(), size=len(stored)), stored))
    assert {name: (leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) for name, leaf in found.items()} == {
        name: (leaf.dtype, leaf.shape, leaf.tobytes()) for name, leaf in TREE.items()
    }


def test_a_package_of_version_1() -> None:
    stored = (HERE / "package-1.json").read_text()
    assert package.Package.model_validate_json(stored).model_dump_json(indent=1) + "\n" == stored
