from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimer2.connectors.resampling import inside, nearest, resampled

SIZES = st.integers(1, 40)


@given(SIZES, SIZES, SIZES, SIZES)
def test_a_constant_image_stays_constant_and_nothing_leaves_the_range(height: int, width: int, rows: int, columns: int) -> None:
    assert resampled(np.full((height, width), 7.0), rows, columns) == pytest.approx(np.full((rows, columns), 7.0))
    drawn = np.random.default_rng(height * 41 + width).uniform(-1, 1, (height, width))
    made = resampled(drawn, rows, columns)
    assert made.min() >= drawn.min() - 1e-9 and made.max() <= drawn.max() + 1e-9


@given(SIZES, SIZES)
def test_the_same_size_changes_no_pixel(height: int, width: int) -> None:
    drawn = np.random.default_rng(height * 41 + width).normal(size=(2, height, width))
    np.testing.assert_array_equal(resampled(drawn, height, width), drawn)


def test_known_answers() -> None:
    """Growing, pixels' centres lie at ±1/4 between the old ones; shrinking by two, the weights are 1/8, 3/8, 3/8, 1/8."""
    assert resampled(np.array([[0.0, 1.0]]), 1, 4)[0] == pytest.approx([0, 0.25, 0.75, 1])
    shrunk = resampled(np.array([[0.0, 0, 0, 8, 0, 0, 0, 0]]), 1, 4)[0]
    assert shrunk == pytest.approx([0, 3, 1, 0])
    assert resampled(np.arange(16.0).reshape(4, 4), 1, 1)[0, 0] == pytest.approx(7.5)


def test_codes_are_taken_never_mixed() -> None:
    mask = np.array([[0, 9], [4, 2]], np.uint8)
    assert nearest(mask, 4, 4).tolist() == [[0, 0, 9, 9], [0, 0, 9, 9], [4, 4, 2, 2], [4, 4, 2, 2]]
    assert nearest(np.arange(25, dtype=np.uint8).reshape(5, 5), 1, 1).tolist() == [[12]]


@given(SIZES, SIZES, SIZES, SIZES)
def test_what_is_to_fit_touches_two_sides(height: int, width: int, rows: int, columns: int) -> None:
    made = inside((height, width), (rows, columns))
    assert 1 <= made[0] <= rows and 1 <= made[1] <= columns
    assert made[0] == rows or made[1] == columns
