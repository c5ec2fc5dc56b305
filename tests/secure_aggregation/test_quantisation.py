"""Words: exact where they promise it, counted where they clip, carried from limb to limb."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimer2.core.errors import BadUpdate
from aimer2.secure_aggregation.layout import Leaf
from aimer2.secure_aggregation.quantisation import add, decode, encode, largest_real, subtract

COUNTS = Leaf("s", "n", (4,), "int64")
REALS = Leaf("s", "x", (4,), "float64")
MANY = Leaf("s", "x", (4096,), "float32")

words128 = st.lists(st.integers(0, 2**128 - 1) | st.sampled_from([0, 1, 2**64 - 1, 2**64, 2**127, 2**128 - 1]), min_size=1, max_size=6)


def limbs(values: list[int]) -> Any:
    return np.frombuffer(b"".join(value.to_bytes(16, "little") for value in values), "<u8").copy()


def numbers(words: Any) -> list[int]:
    data = words.tobytes()
    return [int.from_bytes(data[at : at + 16], "little") for at in range(0, len(data), 16)]


@given(st.data(), words128)
def test_two_limbs_are_one_number_of_128_bits(data: st.DataObject, one: list[int]) -> None:
    other = data.draw(st.lists(st.integers(0, 2**128 - 1) | st.sampled_from([0, 1, 2**64 - 1, 2**128 - 1]), min_size=len(one), max_size=len(one)))
    total = limbs(one)
    add(total, limbs(other), 2)
    assert numbers(total) == [(a + b) % 2**128 for a, b in zip(one, other, strict=True)]
    subtract(total, limbs(other), 2)
    assert numbers(total) == one
    subtract(total, limbs(other), 2)
    assert numbers(total) == [(a - b) % 2**128 for a, b in zip(one, other, strict=True)]


@given(st.lists(st.floats(-largest_real(3), largest_real(3)), min_size=1, max_size=8))
def test_an_unranged_float_is_its_nearest_multiple_of_2_to_the_minus_60(values: list[float]) -> None:
    found = numbers(encode(np.array(values), REALS, 3).words)
    assert found == [round(Fraction(value) * 2**60) % 2**128 for value in values]


@given(st.lists(st.lists(st.integers(-(2**52), 2**52), min_size=3, max_size=3), min_size=3, max_size=7), st.integers(-55, 7))
def test_unranged_floats_add_exactly_whatever_their_order(rows: list[list[int]], exponent: int) -> None:
    sites = [np.array(row) * 2.0**exponent for row in rows]
    found = []
    for order in (sites, sites[::-1]):
        total = np.zeros(6, np.uint64)
        for values in order:
            add(total, encode(values, REALS, len(rows)).words, 2)
        found.append(decode(total, REALS, len(rows)))
    assert found[0].tobytes() == found[1].tobytes()
    exact = [sum(column) * Fraction(2) ** exponent for column in zip(*rows, strict=True)]
    assert [math.isclose(one, other, rel_tol=2**-51) for one, other in zip(found[0], exact, strict=True)] == [True] * 3


def test_as_many_of_the_largest_as_there_are_sites_do_not_overflow() -> None:
    for sites in (1, 3, 7, 10, 200):
        for leaf, largest in [
            (Leaf("s", "x", (1,), "float32", 1.0), 1.0),
            (Leaf("s", "x", (1,), "float64", 1.0), 1.0),
            (MANY, 2.0**24),
            (COUNTS, (2**63 - 1) // sites),
            (REALS, largest_real(sites)),
        ]:
            for value in (largest, -largest):
                word = encode(np.array([value], leaf.dtype), leaf, sites).words
                total = np.zeros_like(word)
                for _ in range(sites):
                    add(total, word, leaf.limbs)
                assert decode(total, leaf, sites)[0] == pytest.approx(value * sites, rel=1e-7)
                assert leaf is not COUNTS or int(decode(total, leaf, sites)[0]) == value * sites


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_over_the_range_is_clipped_and_counted(dtype: str) -> None:
    leaf = Leaf("s", "x", (5,), dtype, 0.1)
    beyond = np.nextafter(np.array(0.1, dtype), np.array(1, dtype)) if dtype == "float64" else np.float32(0.1)
    assert float(beyond) > 0.1
    found = encode(np.array([0.05, -7.0, np.nextafter(beyond, np.array(0, dtype)), beyond, 1e30], dtype), leaf, 3)
    assert found.saturated == 3
    assert found.largest == float(np.array(1e30, dtype))
    assert decode(found.words, leaf, 3) == pytest.approx([0.05, -0.1, 0.1, 0.1, 0.1], rel=1e-7)
    assert encode(np.array([0.1], np.float64).astype(dtype)[:0], leaf, 3).saturated == 0


@pytest.mark.parametrize("exponent", [-5, 0, 6])
def test_many_float32_of_unknown_size_add_to_their_own_precision(exponent: int) -> None:
    values = np.random.default_rng(5).normal(size=(10, 4096)).astype(np.float32) * np.float32(10.0**exponent)
    total = np.zeros(4096, np.uint64)
    for one in values:
        add(total, encode(one, MANY, 10).words, 1)
    exact = values.astype(np.float64).sum(axis=0)
    assert np.abs(decode(total, MANY, 10) - exact).max() <= 10 * 10 * 2.0**-34 + np.abs(exact).max() * 2.0**-24


def test_many_float32_of_unknown_size_are_whole_or_refused_but_not_clipped() -> None:
    found = encode(np.array([1.0, 3e7, -(2.0**30)], np.float32), MANY, 3)
    assert (found.saturated, found.largest) == (0, 2.0**30)
    assert decode(found.words, MANY, 3).tolist() == [1.0, 3e7, -(2.0**30)]
    with pytest.raises(BadUpdate, match="too large"):
        encode(np.array([1.0, np.nextafter(np.float32(2**30), np.float32(np.inf))], np.float32), MANY, 3)


def test_a_value_at_the_range_is_not_counted() -> None:
    for bound in (0.1, 1 / 3, 7e-5, 12345.678):
        found = encode(np.array([bound, -bound, 0]), Leaf("s", "x", (3,), "float64", bound), 10)
        assert (found.saturated, found.largest) == (0, bound)


@pytest.mark.parametrize("known", [None, 2.0])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float, known: float | None) -> None:
    for dtype in ("float32", "float64"):
        with pytest.raises(BadUpdate, match="x of s has a value that is not finite"):
            encode(np.array([1, value, 2], dtype), Leaf("s", "x", (3,), dtype, known), 3)


def test_values_too_large_to_add_are_refused() -> None:
    for values, leaf in [
        (np.array([(2**63 - 1) // 3 + 1]), COUNTS),
        (np.array([-(2**63)]), COUNTS),
        (np.array([-np.nextafter(largest_real(3), np.inf)]), REALS),
        (np.array([3e38], np.float32), Leaf("s", "x", (1,), "float32")),
    ]:
        with pytest.raises(BadUpdate, match="too large"):
            encode(values, leaf, 3)


def test_known_words() -> None:
    # limit = ⌊(2^31 − 1) / 3⌋ = 715827882
    assert encode(np.array([1.0, -1.0, 0.5], np.float32), Leaf("s", "x", (3,), "float32", 1.0), 3).words.tolist() == [
        715827882,
        2**32 - 715827882,
        357913941,
    ]
    assert encode(np.array([1.0, -(2.0**-60), -0.0]), REALS, 3).words.tolist() == [2**60, 0, 2**64 - 1, 2**64 - 1, 0, 0]
    assert encode(np.array([-1, 5]), COUNTS, 3).words.tolist() == [2**64 - 1, 5]


def test_a_sum_of_ten_sites_is_as_good_as_float32() -> None:
    random = np.random.default_rng(7)
    sites = random.normal(size=(10, 200_000)).astype(np.float32) * np.float32(1e-3)
    bound = 2 * float(np.abs(sites).max(axis=1).sum())
    leaf = Leaf("s", "x", (200_000,), "float32", bound)
    total = np.zeros(200_000, np.uint32)
    for values in sites:
        add(total, encode(values, leaf, 10).words, 1)
    exact = sites.astype(np.float64).sum(axis=0)
    assert np.linalg.norm(decode(total, leaf, 10) - exact) / np.linalg.norm(exact) <= 1e-6
