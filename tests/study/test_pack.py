"""The same study gives the same package, on whatever machine and however often."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.blobs.folder import FolderStore
from aimer2.blobs.memory import MemoryStore
from aimer2.core.errors import BadModel
from aimer2.core.study import Study
from aimer2.messages.package import digest
from aimer2.messages.tensors import read_tree
from aimer2.study.pack import pack

Make = Callable[..., Study]
MLP = {"framework": "torch", "name": "mlp", "options": {"hidden": [4]}}
CODE = """
import numpy as np

class Model:
    def initial(self, rng):
        return {"w": rng.normal(size=2)}
    def gradient(self, parameters, features, targets):
        return 0.0, {"w": np.zeros(2)}
    def predict(self, parameters, features):
        return np.full(len(features), 0.5)

def build(features, classes):
    return Model()
"""


@pytest.mark.parametrize("model", [MLP, {"framework": "numpy", "name": "logistic"}], ids=["torch", "numpy"])
def test_packing_twice_is_one_package(study: Make, tmp_path: Path, model: Any) -> None:
    rosters = [{"b": "key-b", "a": "key-a"}, {"a": "key-a", "b": "key-b"}]
    packages = [
        pack(study(model=model), tmp_path, roster, store) for roster, store in zip(rosters, (MemoryStore(), FolderStore(tmp_path)), strict=True)
    ]
    assert packages[0] == packages[1]
    assert digest(packages[0]) == digest(packages[1])
    assert list(packages[1].roster) == ["a", "b"]


def test_another_process_packs_the_same(study: Make, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from aimer2.study.pack import pack; from aimer2.blobs.memory import MemoryStore\n"
        "from aimer2.core.study import Study; import json\n"
        "print(pack(Study(**json.loads(sys.argv[1])), Path(), {}, MemoryStore()).initial.sha256)"
    )
    given = study(model=MLP)
    other = subprocess.run([sys.executable, "-c", program, given.model_dump_json()], check=True, capture_output=True, text=True).stdout.strip()
    assert other == pack(given, tmp_path, {}, MemoryStore()).initial.sha256


def test_the_seed_makes_the_weights(study: Make, tmp_path: Path) -> None:
    store = MemoryStore()
    first, second = (pack(study(model=MLP, seed=seed), tmp_path, {}, store) for seed in (1, 2))
    assert first.initial != second.initial
    weights = read_tree(store.open(first.initial))
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in weights.values())
    assert any(np.asarray(leaf).any() for leaf in weights.values())


def test_the_code_is_in_it_to_the_byte(study: Make, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(CODE)
    store, given = MemoryStore(), study(model={"framework": "numpy", "code": "model.py"})
    first = pack(given, tmp_path, {}, store)
    assert bytes(store.open(first.files["model.py"]).view()) == CODE.encode()
    (tmp_path / "model.py").write_text(CODE + "\n")
    second = pack(given, tmp_path, {}, store)
    assert second.initial == first.initial
    assert digest(second) != digest(first)


def test_a_model_that_cannot_be_built_is_told_so(study: Make, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("def build(features, classes):\n    raise ValueError('no')")
    with pytest.raises(BadModel):
        pack(study(model={"framework": "numpy", "code": "model.py"}), tmp_path, {}, MemoryStore())


def test_rows_that_are_no_table_bring_their_shape(study: Make, tmp_path: Path) -> None:
    store = MemoryStore()
    package = pack(study(model={"framework": "torch", "name": "logistic"}), tmp_path, {}, store, feature_shape=(3, 4))
    assert read_tree(store.open(package.initial))["weight"].shape == (1, 12)
