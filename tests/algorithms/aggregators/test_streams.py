"""Updates in files are combined in the memory of a strip, and to the same bits as in memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aimer2.algorithms.aggregators import catalogue
from aimer2.core import tree
from aimer2.core.protocols import Aggregator
from aimer2.core.tree import ArrayFile, FileArray
from aimer2.core.update import Update

ROBUST = [name for name in catalogue.names() if name != "weighted_mean"]
SITES, SIZE, MEBIBYTE = 24, 400_003, 1 << 20


def updates(path: Path) -> tuple[list[Update], list[Update]]:
    """The same in files and in memory; sites are windows of one file."""
    numbers = np.random.default_rng(1).normal(size=SIZE + 1000 * SITES).astype(np.float32)
    numbers.tofile(path)
    file, dtype = ArrayFile(path), np.dtype(np.float32)
    weight = {"rows": np.array([3.0])}
    lazy: list[Update] = []
    whole: list[Update] = []
    for site in range(SITES):
        leaf: Any = FileArray(file, 4000 * site, (SIZE,), dtype)
        lazy.append(Update({"difference": {"w": leaf}, "weight": weight}))
        whole.append(Update({"difference": {"w": numbers[1000 * site :][:SIZE]}, "weight": weight}))
    return lazy, whole


@pytest.mark.parametrize("name", ROBUST)
def test_streamed_is_as_in_memory_and_small(name: str, tmp_path: Path) -> None:
    lazy, whole = updates(tmp_path / "updates")
    aggregator: Aggregator = catalogue.make(name, 16, {})
    expected = aggregator(whole).sums["difference"]["w"]
    assert isinstance(expected, np.ndarray)
    tracemalloc.start()
    found = aggregator(lazy).sums["difference"]["w"]
    streamed = np.empty(SIZE, np.float32)
    for number, part in enumerate(tree.slices(found)):
        streamed[number * tree.SLICE :][: len(part)] = part
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.dtype == np.float32
    assert streamed.tobytes() == expected.tobytes()
    assert peak < 16 * MEBIBYTE < SITES * SIZE * 4 / 2


@pytest.mark.parametrize("name", ROBUST)
def test_any_part_of_the_result_can_be_read(name: str, tmp_path: Path) -> None:
    lazy, _ = updates(tmp_path / "updates")
    leaf = catalogue.make(name, 16, {})(lazy).sums["difference"]["w"]
    whole = leaf.read(0, 40_000)
    assert leaf.read(16_000, 17_001).tobytes() == whole[16_000:17_001].tobytes()
