"""Counts that leave a site tell of no few patients, not even by subtraction."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from aimer2.core.errors import BadInput
from aimer2.privacy.disclosure import MINIMUM_CELL, coarse, tell_table, too_close


@pytest.mark.parametrize(("count", "told"), [(0, None), (9, None), (10, 10), (12, 10), (13, 15), (997, 995), (998, 1000)])
def test_a_count(count: int, told: int | None) -> None:
    assert coarse(count) == told


def test_none_and_few_look_alike_and_not_like_zero() -> None:
    assert coarse(0) is coarse(3) is None


def people(*ids: int) -> npt.NDArray[np.uint64]:
    return np.array(ids, np.uint64)


@pytest.mark.parametrize(
    ("second", "close"),
    [
        (range(100), False),
        (range(99), True),
        (range(91), True),
        (range(90), False),
        (range(1, 101), True),
        (range(50, 150), False),
        (range(109), True),
    ],
)
def test_two_counts_whose_difference_is_a_few_patients(second: range, close: bool) -> None:
    first = people(*range(100), *range(100))  # rows, two for each
    assert too_close(first, people(*second)) is too_close(people(*second), first) is close


def test_a_small_count_takes_another_of_its_row_and_column_with_it() -> None:
    told = tell_table(np.array([[50, 3, 40], [60, 70, 80], [31, 90, 20]]))
    assert told.cells[0][1] is None
    for line in (*told.cells, *zip(*told.cells, strict=True)):
        assert line.count(None) != 1
    assert (told.rows, told.columns, told.total) == ((95, 210, 140), (140, 165, 140), 445)


def test_a_table_of_large_counts_is_told_whole() -> None:
    told = tell_table(np.array([[10, 22], [33, 41]]))
    assert told.cells == ((10, 20), (35, 40))
    assert (told.rows, told.columns, told.total) == ((30, 75), (45, 65), 105)


def test_a_table_of_few_patients_is_not_told_at_all() -> None:
    told = tell_table(np.array([[1, 2], [3, 3]]))
    assert told.cells == ((None, None), (None, None))
    assert (told.rows, told.columns, told.total) == ((None, None), (None, None), None)


def test_zeros_do_not_hide_a_small_count() -> None:
    """Two suppressed in a row are not enough where both are as good as known: here 0 and 3, of a sum of 3."""
    told = tell_table(np.array([[0, 3, 40, 50], [0, 3, 60, 70], [20, 30, 40, 50]]))
    assert sum(cell is None for cell in told.cells[0]) > 2


@pytest.mark.parametrize("counts", [np.array([1, 2]), np.array([[-1, 2]]), np.array([[1.0, 2.0]]), np.zeros((0, 2), int)])
def test_what_is_no_table_of_counts_is_refused(counts: npt.NDArray[np.integer]) -> None:
    with pytest.raises(BadInput):
        tell_table(counts)


def interval(whole: npt.NDArray[np.int64], hidden: npt.NDArray[np.bool_], cell: tuple[int, int]) -> tuple[float, float]:
    """What an attacker who knows all that is not suppressed exactly finds for one suppressed cell, by linear programming."""
    places = [tuple(place) for place in np.argwhere(hidden)]
    rows, values = [], []
    height, width = whole.shape
    sign = np.ones_like(whole)
    sign[-1, :] *= -1
    sign[:, -1] *= -1
    lines = [[(row, column) for column in range(width)] for row in range(height)]
    lines += [[(row, column) for row in range(height)] for column in range(width)]
    for line in lines:
        rows.append([sign[place] if place in line else 0 for place in places])
        values.append(-sum(int(sign[place]) * int(whole[place]) for place in line if not hidden[place]))
    ends = []
    for direction in (1, -1):
        goal = [direction if place == cell else 0 for place in places]
        found = linprog(goal, A_eq=rows, b_eq=values, bounds=(0, None))
        ends.append(direction * found.fun if found.status == 0 else np.inf)
    return ends[0], ends[1]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), min_size=3, max_size=3), min_size=2, max_size=4))
def test_no_suppressed_count_can_be_computed(lines: list[list[int]]) -> None:
    counts = np.array(lines)
    told = tell_table(counts)
    wide = np.column_stack([counts, counts.sum(axis=1)])
    whole = np.vstack([wide, wide.sum(axis=0)])
    answers = [[*cells, margin] for cells, margin in zip(told.cells, told.rows, strict=True)] + [[*told.columns, told.total]]
    hidden = np.array([[answer is None for answer in answers_of_row] for answers_of_row in answers])
    assert all(hidden[place] or whole[place] >= MINIMUM_CELL for place in product(range(whole.shape[0]), range(whole.shape[1])))
    for place in np.argwhere(hidden):
        low, high = interval(whole, hidden, (int(place[0]), int(place[1])))
        assert high - low > 1
