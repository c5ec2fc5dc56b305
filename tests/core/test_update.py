"""The algebra that secure aggregation, drop-outs and statistics rest on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimer2.core.errors import BadUpdate
from aimer2.core.update import Update, total

integers = st.lists(st.integers(-(2**60), 2**60), min_size=3, max_size=3)
updates = st.builds(
    lambda w, n: Update({"difference": {"w": np.array(w, np.int64), "b": np.array(n, np.int64)}, "weight": {"rows": np.array([n], np.int64)}}),
    integers,
    st.integers(0, 2**40),
)


def bits(update: Update) -> dict[str, Any]:
    return {f"{name}/{leaf}": np.asarray(array).tolist() for name, tree in update.sums.items() for leaf, array in tree.items()}


@given(updates, updates, updates)
def test_integers_add_in_any_grouping_and_order(a: Update, b: Update, c: Update) -> None:
    assert bits((a + b) + c) == bits(a + (b + c)) == bits(total([c, a, b])) == bits(b + c + a)


@given(updates, updates)
def test_a_sum_is_the_sum_of_each_leaf(a: Update, b: Update) -> None:
    left, right = bits(a), bits(b)
    added = bits(a + b)
    assert added.keys() == left.keys()
    assert all(np.array_equal(np.asarray(added[key]), np.asarray(left[key]) + np.asarray(right[key])) for key in added)


@given(updates, updates)
def test_adding_leaves_the_operands_as_they_were(a: Update, b: Update) -> None:
    before = bits(a), bits(b)
    total([a, b, a])
    assert (bits(a), bits(b)) == before


def test_floats_are_added_from_left_to_right() -> None:
    parts = [Update({"s": {"x": np.array([value])}}) for value in (1e16, 1.0, 1.0)]
    assert total(parts).sums["s"]["x"][0] == (1e16 + 1.0) + 1.0
    assert total(parts[::-1]).sums["s"]["x"][0] == (1.0 + 1.0) + 1e16


def test_different_sums_are_not_added() -> None:
    weight = {"rows": np.ones(1)}
    with pytest.raises(BadUpdate, match="control"):
        Update({"weight": weight}) + Update({"weight": weight, "control": weight})
    with pytest.raises(BadUpdate, match="patients"):
        Update({"weight": weight}) + Update({"weight": {"patients": np.ones(1)}})
    with pytest.raises(BadUpdate, match="shape"):
        Update({"weight": weight}) + Update({"weight": {"rows": np.ones(2)}})
    with pytest.raises(BadUpdate):
        total([])
