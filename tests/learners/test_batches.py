from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimer2.core.errors import BadData
from aimer2.learners.batches import batches, in_parts, validation


def taken(rows: int, batch_size: int | None, steps: int, at_least: int = 1) -> list[np.ndarray]:
    return list(batches(rows, batch_size=batch_size, steps=steps, rng=np.random.default_rng(0), at_least=at_least))


@given(rows=st.integers(1, 40), batch_size=st.integers(1, 45))
def test_a_pass_sees_every_row_once(rows: int, batch_size: int) -> None:
    per_pass = -(-rows // batch_size)
    two = taken(rows, batch_size, 2 * per_pass)
    for half in (two[:per_pass], two[per_pass:]):
        assert sorted(np.concatenate(half)) == list(range(rows))
        assert [len(batch) for batch in half[:-1]] == [batch_size] * (per_pass - 1)


@given(rows=st.integers(2, 40), batch_size=st.integers(2, 45), steps=st.integers(0, 30))
def test_batch_normalisation_always_has_two_rows(rows: int, batch_size: int, steps: int) -> None:
    given_batches = taken(rows, batch_size, steps, at_least=2)
    assert len(given_batches) == steps
    assert all(2 <= len(batch) == len(set(batch.tolist())) <= batch_size for batch in given_batches)


def test_passes_are_shuffled_anew() -> None:
    first, second = taken(50, 25, 4)[:2], taken(50, 25, 4)[2:]
    assert np.concatenate(first).tolist() != np.concatenate(second).tolist()
    assert np.concatenate(first).tolist() != list(range(50))


@pytest.mark.parametrize("batch_size", [None, 5, 9])
def test_all_rows_at_once_are_one_array_and_draw_nothing(batch_size: int | None) -> None:
    rng = np.random.default_rng(0)
    all_rows = list(batches(5, batch_size=batch_size, steps=3, rng=rng))
    assert all(rows is all_rows[0] for rows in all_rows)
    assert all_rows[0].tolist() == [0, 1, 2, 3, 4]
    assert rng.integers(1000) == np.random.default_rng(0).integers(1000)


@pytest.mark.parametrize(("rows", "batch_size", "at_least"), [(0, 4, 1), (0, None, 1), (1, 4, 2), (1, None, 2), (9, 1, 2)])
def test_too_few_rows_are_refused(rows: int, batch_size: int | None, at_least: int) -> None:
    with pytest.raises(BadData, match=f"at least {at_least}"):
        list(itertools.islice(batches(rows, batch_size=batch_size, steps=1, rng=np.random.default_rng(0), at_least=at_least), 1))


@given(rows=st.integers(1, 50), parts=st.integers(2, 60), at_least=st.integers(1, 2))
def test_parts_hold_every_row_once_and_none_is_too_small(rows: int, parts: int, at_least: int) -> None:
    found = in_parts(np.arange(rows), parts, at_least=at_least)
    assert np.concatenate(found).tolist() == list(range(rows))
    assert len(found) <= parts
    assert min(map(len, found)) >= min(at_least, rows)
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_the_validation_part_stays_what_it_was() -> None:
    """A patient who changed sides between two versions would have been trained on before being looked at."""
    patients = np.array([0, 1, 2, 3, 5, 8, 13, 2**63, 2**64 - 1, 0x0123456789ABCDEF], np.uint64)
    assert validation(patients, 0.5).astype(int).tolist() == KNOWN
    assert not validation(patients, 0.0).any()
    # a larger share holds all of a smaller one
    assert not (validation(patients, 0.2) & ~validation(patients, 0.5)).any()


KNOWN = [0, 0, 0, 0, 1, 0, 1, 0, 0, 1]
