"""The order of floating-point sums is fixed by the sites and the block, and by nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aimer2.algorithms.aggregators.weighted_mean import WeightedMean
from aimer2.core.errors import BadUpdate
from aimer2.core.update import Update

# Numbers whose sum depends on the grouping.
VALUES = [1.0, 1e16, -1e16, 3.0, 1e-3]


def update(value: float) -> Update:
    return Update({"difference": {"w": np.array([value])}, "weight": {"rows": np.array([1.0])}})


def by_hand(block: int) -> float:
    a, b, c, d, e = VALUES
    return {
        1: ((((a + b) + c) + d) + e),
        2: ((a + b) + (c + d)) + e,
        3: ((a + b) + c) + (d + e),
        4: (((a + b) + c) + d) + e,
        16: (((a + b) + c) + d) + e,
    }[block]


@pytest.mark.parametrize("block", [1, 2, 3, 4, 16])
def test_blocks_are_added_as_by_hand(block: int) -> None:
    total = WeightedMean(block)(update(value) for value in VALUES)
    assert total.sums["difference"]["w"][0] == by_hand(block)
    assert total.sums["weight"]["rows"][0] == 5


def test_the_grouping_matters_here_at_all() -> None:
    assert len({by_hand(block) for block in (1, 2, 3)}) > 1


def test_a_relay_that_adds_whole_blocks_changes_no_bit() -> None:
    updates = [update(value) for value in VALUES]
    relayed: list[Any] = [WeightedMean(2)(updates[:2]), WeightedMean(2)(updates[2:4]), WeightedMean(2)(updates[4:])]
    whole = WeightedMean(2)(updates).sums["difference"]["w"]
    assert WeightedMean(3)(relayed).sums["difference"]["w"].tobytes() == whole.tobytes()


def test_nothing_cannot_be_added() -> None:
    with pytest.raises(BadUpdate):
        WeightedMean()([])
