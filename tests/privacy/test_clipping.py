"""No update is longer than its clip norm, none that is short enough is changed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimer2.core import tree
from aimer2.core.errors import BadInput, BadUpdate
from aimer2.core.update import Update
from aimer2.privacy.clipping import clip, norm


def update(*values: Any, dtype: str = "f4") -> Update:
    return Update({"difference": {str(number): np.array(value, dtype) for number, value in enumerate(values)}})


def test_known_norm() -> None:
    assert norm({"a": {"x": np.array([[3.0, 0.0]])}, "b": {"y": np.array(4.0, "f4")}}) == 5.0


@settings(max_examples=50)
@given(st.integers(1, 3000), st.floats(1e-6, 1e6), st.floats(1e-3, 1e3), st.sampled_from(["f4", "f8"]), st.integers(0, 2**32))
def test_never_longer(size: int, scale: float, clip_norm: float, dtype: str, seed: int) -> None:
    given_ = update(np.random.default_rng(seed).normal(size=size) * scale, dtype=dtype)
    clipped = clip(given_, clip_norm)
    assert norm(clipped.sums) <= clip_norm
    assert norm(clipped.sums) >= min(norm(given_.sums), clip_norm) * (1 - 1e-6)
    assert tree.load(clipped.sums["difference"]["0"]).dtype == dtype


def test_direction_stays_and_all_sums_shrink_by_one_factor() -> None:
    clipped = clip(Update({"a": {"x": np.array([3.0])}, "b": {"x": np.array([4.0])}}), 1.0)
    assert tree.load(clipped.sums["b"]["x"]) / tree.load(clipped.sums["a"]["x"]) == pytest.approx(4 / 3)


def test_a_short_update_is_the_same_bits() -> None:
    short = update([0.1, -0.2])
    assert clip(short, 1.0) is short


class Counted:
    """A lazy array that remembers the longest slice that was asked for."""

    shape = (1 << 20,)
    dtype = np.dtype("f4")
    longest = 0

    def read(self, start: int, stop: int) -> Any:
        self.longest = max(self.longest, stop - start)
        return np.ones(stop - start, self.dtype)


def test_a_lazy_update_stays_lazy() -> None:
    leaf = Counted()
    clipped = clip(Update({"difference": {"w": leaf}}), 1.0).sums["difference"]["w"]
    assert not isinstance(clipped, np.ndarray)
    assert tree.read(clipped, 5, 7) == pytest.approx([2.0**-10] * 2)
    assert leaf.longest <= tree.SLICE


@pytest.mark.parametrize("bad", [update([1.0, math.nan]), update([math.inf]), update([1e200], dtype="f8"), update([1], dtype="i8")])
def test_what_has_no_norm_is_refused(bad: Update) -> None:
    with pytest.raises(BadUpdate):
        clip(bad, 1.0)


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.inf, math.nan])
def test_a_clip_norm_is_positive(clip_norm: float) -> None:
    with pytest.raises(BadInput):
        clip(update([1.0]), clip_norm)
