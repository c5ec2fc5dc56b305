"""TensorFlow and scikit-learn inside the confinement of a hospital's worker: no network, no other process, its own trees only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.core.study import Study
from aimer2.core.task import Task
from aimer2.core.tree import Tree
from aimer2.messages.tensors import read_tree, write_tree
from aimer2.site.memory_files import MemoryFile, OpenFile
from aimer2.site.workers import Opening, Worker

CODE = """
import keras, tensorflow

def build(features, classes):
    print("threads:", tensorflow.config.threading.get_intra_op_parallelism_threads(), flush=True)
    return keras.Sequential([keras.Input((features,)), keras.layers.Dropout(0.1), keras.layers.Dense(1, name="head")])
"""
WEIGHTS = {"sequential/head/kernel": np.zeros((2, 1), np.float32), "sequential/head/bias": np.zeros(1, np.float32)}


async def rounds(opening: Opening, weights: Tree, count: int) -> list[dict[str, Any]]:
    """One task after the other in one warm worker: the sums of each."""
    worker, found = await Worker.start(opening), []
    try:
        for number in range(1, count + 1):
            fields = {"id": f"t-{number}", "study": "0" * 64, "site": "north", "stage": "train", "round_number": number}
            file = MemoryFile()
            write_tree(weights, file)
            task = Task.model_validate(fields).model_dump(mode="json")
            reply, files = await worker.ask({"task": task, "received": ["model"], "memory": []}, [file.seal()])
            found.append({name: read_tree(OpenFile(file)) for name, file in zip(reply["sums"], files, strict=True)})
    finally:
        await worker.end()
    return found


def said(folder: Path) -> set[str]:
    """What the worker printed besides what is in force."""
    heads = ("Network:", "Files:", "Memory:", "Time:", "Disk:", "Processes:", "User:")
    return {line for line in (folder / "worker.log").read_text().splitlines() if not line.startswith(heads)}


@pytest.mark.usefixtures("tensorflow")
def test_a_confined_worker_trains_with_tensorflow_and_says_nothing(make_opening: Callable[..., Opening], a_study: Callable[..., Study]) -> None:
    study = a_study(model={"framework": "keras", "code": "model.py"}, method={"name": "fedprox", "rounds": 2, "parameters": {"mu": 0.1}})
    opening = make_opening(study, {"model.py": CODE})
    first, second = asyncio.run(rounds(opening, WEIGHTS, 2))
    for sums in (first, second):
        assert sums["difference"].keys() == WEIGHTS.keys()
        assert np.abs(sums["difference"]["sequential/head/kernel"]).max() > 0
    assert not np.array_equal(first["difference"]["sequential/head/kernel"], second["difference"]["sequential/head/kernel"])
    assert said(opening.folder) == {"threads: 1"}


def test_a_confined_worker_trains_with_scikit_learn_and_says_nothing(make_opening: Callable[..., Opening], a_study: Callable[..., Study]) -> None:
    opening = make_opening(a_study(model={"framework": "sklearn", "name": "logistic"}))
    (sums,) = asyncio.run(rounds(opening, {"coef_": np.zeros((1, 2)), "intercept_": np.zeros(1)}, 1))
    assert np.abs(sums["difference"]["coef_"]).max() > 0
    assert said(opening.folder) == set()
