"""Lazy and eager arithmetic give the same bits; files are read where and only where asked."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimer2.core import tree
from aimer2.core.errors import BadUpdate
from aimer2.core.tree import ArrayFile, FileArray, Mapped, Summed

FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "step": (2, lambda w, d: (w + 0.3 * d).astype(w.dtype, copy=False)),
    "momentum": (2, lambda v, d: (0.9 * v + d).astype(v.dtype, copy=False)),
    "mean": (1, lambda d: d / d.dtype.type(7)),
    "adam": (3, lambda w, m, v: w + 0.1 * m / (np.sqrt(np.abs(v)) + 1e-3)),
    "identity": (1, lambda w: w),
    "truth": (1, lambda w: w > 0),
}
DTYPES = ["float32", "float64", "int64"]


class InParts:
    """A leaf that lies nowhere: read from a numpy array, in pieces of its own."""

    def __init__(self, whole: np.ndarray[Any, Any]) -> None:
        self._whole = whole
        self.shape = whole.shape
        self.dtype = whole.dtype

    def read(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        return self._whole.reshape(-1)[start:stop].copy()


def drawn(shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray[Any, Any]:
    return np.asarray(np.random.default_rng(seed).normal(size=shape) * 1000, dtype)


def in_file(path: Path, array: np.ndarray[Any, Any], before: bytes = b"12345") -> FileArray:
    path.write_bytes(before + array.tobytes())
    return FileArray(ArrayFile(path), len(before), array.shape, array.dtype)


def in_slices(leaf: Any, length: int) -> np.ndarray[Any, Any]:
    parts = list(tree.slices(leaf, length))
    return np.concatenate(parts).reshape(leaf.shape) if parts else np.zeros(leaf.shape, leaf.dtype)


shapes = st.lists(st.integers(0, 7), max_size=3).map(tuple)


@given(shape=shapes, dtype=st.sampled_from(DTYPES), name=st.sampled_from(sorted(FUNCTIONS)), length=st.integers(1, 50), lazy=st.integers(1, 7))
def test_a_lazy_map_has_the_bits_of_the_eager_one(shape: tuple[int, ...], dtype: str, name: str, length: int, lazy: int) -> None:
    arity, function = FUNCTIONS[name]
    arrays = [drawn(shape, dtype, seed) for seed in range(arity)]
    mixed = [InParts(array) if lazy >> number & 1 else array for number, array in enumerate(arrays)]
    eager = tree.map(function, *({"w": array} for array in arrays))["w"]
    promised = tree.map(function, *({"w": array} for array in mixed))["w"]
    assert isinstance(eager, np.ndarray)
    assert isinstance(promised, Mapped if lazy & ((1 << arity) - 1) else np.ndarray)
    assert (promised.dtype, promised.shape) == (eager.dtype, eager.shape)
    assert in_slices(promised, length).tobytes() == eager.tobytes()
    assert tree.load(promised).tobytes() == eager.tobytes()


@given(shape=shapes, dtype=st.sampled_from(DTYPES), count=st.integers(1, 6), length=st.integers(1, 50), lazy=st.integers(0, 63))
def test_a_lazy_sum_has_the_bits_of_the_eager_one_and_its_order(shape: tuple[int, ...], dtype: str, count: int, length: int, lazy: int) -> None:
    arrays = [drawn(shape, dtype, seed) for seed in range(count)]
    by_hand = arrays[0].copy()
    for array in arrays[1:]:
        by_hand = by_hand + array
    mixed = [{"w": InParts(array) if lazy >> number & 1 else array} for number, array in enumerate(arrays)]
    assert np.asarray(tree.add(*({"w": array} for array in arrays))["w"]).tobytes() == by_hand.tobytes()
    assert in_slices(tree.add(*mixed)["w"], length).tobytes() == by_hand.tobytes()


def test_the_order_of_addition_is_the_one_given() -> None:
    large, small = np.array([1e16]), np.array([1.0])
    leaves = [{"w": large}, {"w": small}, {"w": -large}]
    assert tree.add(*leaves)["w"][0] == 0.0
    assert tree.add(leaves[0], leaves[2], leaves[1])["w"][0] == 1.0
    lazily = [{"w": InParts(leaf["w"])} for leaf in leaves]
    assert tree.load(tree.add(*lazily)["w"])[0] == 0.0
    assert tree.load(tree.add(lazily[0], lazily[2], lazily[1])["w"])[0] == 1.0


def test_adding_changes_no_operand() -> None:
    first, second = np.arange(5.0), np.arange(5.0)
    tree.add({"w": first}, {"w": second})
    tree.load(Summed([first, second, InParts(second)]))
    # a function may hand back what it was given: the sum must not be made in it
    tree.load(Summed([Mapped(lambda a, b: a, [first, InParts(second)]), second]))
    assert first.tolist() == second.tolist() == [0, 1, 2, 3, 4]


def test_names_shapes_and_types_must_agree() -> None:
    whole = {"w": np.zeros(3, np.float32)}
    for odd in ({"v": np.zeros(3, np.float32)}, {}, {"w": np.zeros((3, 1), np.float32)}, {"w": np.zeros(1, np.float32)}):
        with pytest.raises(BadUpdate):
            tree.add(whole, odd)
        with pytest.raises(BadUpdate):
            tree.map(lambda a, b: a + b, whole, odd)
    for dtype in ("float64", "int64"):
        with pytest.raises(BadUpdate, match=f"w is {dtype} where float32"):
            tree.add(whole, {"w": np.zeros(3, dtype)})
    with pytest.raises(BadUpdate):
        tree.add({"w": np.zeros(3, np.int64)}, {"w": InParts(np.zeros(3))})


@given(
    elements=st.integers(0, 70),
    start=st.integers(0, 70),
    stop=st.integers(0, 70),
    before=st.binary(max_size=17),
    dtype=st.sampled_from(DTYPES),
)
def test_a_file_is_read_at_any_boundary(tmp_path_factory: Any, elements: int, start: int, stop: int, before: bytes, dtype: str) -> None:
    array = drawn((elements,), dtype, 1)
    start, stop = sorted((min(start, elements), min(stop, elements)))
    path = tmp_path_factory.getbasetemp() / "odd.bin"
    leaf = in_file(path, array, before)
    assert leaf.read(start, stop).tobytes() == array[start:stop].tobytes()
    assert tree.load(leaf).tobytes() == array.tobytes()


def test_a_file_array_spans_slices_and_keeps_its_shape(tmp_path: Path) -> None:
    array = drawn((3, tree.SLICE // 2 + 1), "float32", 2)
    leaf = in_file(tmp_path / "a", array)
    assert [len(part) for part in tree.slices(leaf)] == [tree.SLICE, tree.SLICE // 2 + 3]
    assert np.array_equal(tree.load(leaf), array)
    assert tree.load(leaf).shape == array.shape


def test_a_file_may_be_unlinked_while_it_is_in_use(tmp_path: Path) -> None:
    array = drawn((9,), "float64", 3)
    leaf = in_file(tmp_path / "a", array)
    (tmp_path / "a").unlink()
    assert np.array_equal(tree.load(leaf), array)


def test_a_file_that_is_too_short_is_an_error_and_not_zeros(tmp_path: Path) -> None:
    leaf = in_file(tmp_path / "a", np.arange(4.0))
    os.truncate(tmp_path / "a", 5 + 3 * 8 + 1)
    assert leaf.read(0, 3).tolist() == [0, 1, 2]
    with pytest.raises(EOFError):
        leaf.read(0, 4)


def test_arrays_of_one_file_share_a_descriptor_and_give_it_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(np.arange(100.0).tobytes())

    def opened() -> int:
        gc.collect()
        return sum(os.readlink(f"/proc/self/fd/{number}").startswith(str(tmp_path)) for number in os.listdir("/proc/self/fd") if _is_open(number))

    file = ArrayFile(tmp_path / "a")
    leaves = [FileArray(file, 8 * number, (1,), np.dtype("<f8")) for number in range(100)]
    assert opened() == 1
    assert [leaf.read(0, 1)[0] for leaf in leaves] == list(range(100))
    del file
    assert opened() == 1
    leaves.clear()
    assert opened() == 0


def _is_open(number: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{number}")


def test_an_array_in_another_order_is_copied_once() -> None:
    array = np.asfortranarray(drawn((40, 30), "float64", 4))
    parts = list(tree.slices(array, 100))
    assert np.concatenate(parts).tobytes() == np.ascontiguousarray(array).tobytes()
    assert all(part.base is parts[0].base for part in parts)


def test_finite_means_every_number_of_every_leaf() -> None:
    long = np.zeros(tree.SLICE + 1)
    assert tree.is_finite({"a": long, "b": np.array(3, np.int64), "c": np.zeros((0, 2))})
    for bad in (np.nan, np.inf, -np.inf):
        long[-1] = bad
        assert not tree.is_finite({"a": np.zeros(1), "b": InParts(long)})


def test_a_scalar_is_read_of_any_leaf() -> None:
    assert tree.scalar({"n": np.array([7], np.int64)}, "n") == 7.0
    assert tree.scalar({"n": np.float64(2.5)}, "n") == 2.5
    assert tree.scalar({"n": InParts(np.array(1.5))}, "n") == 1.5
