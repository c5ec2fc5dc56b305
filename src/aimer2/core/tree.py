"""Named arrays, and arithmetic on them that never needs a whole model in memory.

A ``Tree`` is a flat mapping from name to array. Leaves are numpy arrays (float32, float64 or int64 on the wire) or ``LazyArray``: an
array in a file, or the promise of an elementwise expression over such arrays, computed slice by slice when it is written. Elementwise
arithmetic gives the same bits either way, so an algorithm is written once and a coordinator adds a hundred 1 GB updates in a few megabytes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, final

import numpy as np
import numpy.typing as npt

from aimer2.core.errors import BadUpdate
from aimer2.core.said import say

SLICE = 1 << 17
"""Elements computed at a time: small enough for a core's cache, large enough to hide the call."""

NumpyArray: TypeAlias = npt.NDArray[Any]


class LazyArray(Protocol):
    """An array that is read in flat slices."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def read(self, start: int, stop: int) -> NumpyArray:
        """Elements ``start`` to ``stop`` in C order, a flat array of its own."""
        ...


Array: TypeAlias = NumpyArray | LazyArray
Tree: TypeAlias = Mapping[str, Any]
"""``Mapping[str, Array]``; at a site also the learner's own kind of array, hence ``Any``."""


@final
class ArrayFile:
    """A file of arrays: open as long as one of them lives, so that it may be unlinked meanwhile; one descriptor however many they are."""

    __slots__ = ("_file",)

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with the last array

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def fill(self, part: NumpyArray, position: int) -> None:
        """Reads as many bytes as the array holds."""
        view = part.view(np.uint8).data
        while view:
            got = os.preadv(self._file.fileno(), [view], position)
            if got == 0:
                raise EOFError("the file is shorter than its header says")
            view, position = view[got:], position + got


@final
class FileArray:
    """An array that lies in a file, C order, little endian."""

    __slots__ = ("_file", "_offset", "dtype", "shape")

    def __init__(self, file: ArrayFile, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._file = file
        self._offset = offset
        self.shape = shape
        self.dtype = dtype

    def read(self, start: int, stop: int) -> NumpyArray:
        part = np.empty(stop - start, self.dtype)
        self._file.fill(part, self._offset + start * self.dtype.itemsize)
        return part


@final
class Mapped:
    """An elementwise function over arrays of one shape, not yet computed."""

    __slots__ = ("_function", "_operands", "dtype", "shape")

    def __init__(self, function: Callable[..., Any], operands: Sequence[Array]) -> None:
        self._function = function
        self._operands = tuple(operands)
        self.shape = operands[0].shape
        self.dtype = np.asarray(function(*(np.ones(1, o.dtype) for o in operands))).dtype

    def read(self, start: int, stop: int) -> NumpyArray:
        result: NumpyArray = self._function(*(read(o, start, stop) for o in self._operands))
        return result


@final
class Summed:
    """The sum of two or more arrays in the given order, not yet computed; holds two slices at a time whatever their number."""

    __slots__ = ("_operands", "dtype", "shape")

    def __init__(self, operands: Sequence[Array]) -> None:
        self._operands = tuple(operands)
        self.shape = operands[0].shape
        self.dtype = operands[0].dtype

    def read(self, start: int, stop: int) -> NumpyArray:
        first, second, *rest = self._operands
        # a new array: what was read may be a view of an operand
        total: NumpyArray = read(first, start, stop) + read(second, start, stop)
        for operand in rest:
            total += read(operand, start, stop)
        return total


def read(array: Array, start: int, stop: int) -> NumpyArray:
    """A flat slice of any leaf; of a numpy array it may be a view."""
    if isinstance(array, np.ndarray | np.generic):
        return array.reshape(-1)[start:stop]
    return array.read(start, stop)


def size(array: Array) -> int:
    return math.prod(array.shape)


def slices(array: Array, length: int = SLICE) -> Iterator[NumpyArray]:
    """The array as flat slices in order."""
    if isinstance(array, np.ndarray | np.generic):
        # once: an array that is not in C order is copied by this
        array = array.reshape(-1)
    total = size(array)
    for start in range(0, total, length):
        yield read(array, start, min(start + length, total))


def load(array: Array) -> NumpyArray:
    """Any leaf as a numpy array in memory."""
    if isinstance(array, np.ndarray | np.generic):
        return np.asarray(array)
    whole = np.empty(size(array), array.dtype)
    for number, part in enumerate(slices(array)):
        whole[number * SLICE : number * SLICE + len(part)] = part
    return whole.reshape(array.shape)


def scalar(tree: Tree, name: str) -> float:
    """The one number that a leaf of one element holds."""
    return float(load(tree[name]).reshape(-1)[0])


def map(function: Callable[..., Any], *trees: Tree) -> dict[str, Any]:
    """The elementwise function applied leaf by leaf; lazily where any operand is lazy, at once in memory otherwise.

    Raises BadUpdate where names or shapes differ: the sites then hold different models.
    """
    check_alike(*trees)
    first = trees[0]
    return {name: _apply(function, [tree[name] for tree in trees]) for name in first}


def _apply(function: Callable[..., Any], operands: Sequence[Any]) -> Any:
    if all(isinstance(operand, np.ndarray) for operand in operands):
        return np.asarray(function(*operands))
    return Mapped(function, operands)


def add(*trees: Tree) -> dict[str, Any]:
    """The sum of trees in the given order.

    Raises BadUpdate where names, shapes or types differ.
    """
    check_alike(*trees)
    first = trees[0]
    for name, leaf in first.items():
        if odd := [tree[name].dtype.name for tree in trees[1:] if tree[name].dtype != leaf.dtype]:
            raise BadUpdate(say("{name} is {odd} where {dtype} was expected.", name=name, odd=odd[0], dtype=leaf.dtype.name))
    return {name: _add([tree[name] for tree in trees]) for name in first}


def _add(operands: Sequence[Any]) -> Any:
    if len(operands) == 1:
        return operands[0]
    if all(isinstance(operand, np.ndarray) for operand in operands):
        total = np.array(operands[0])
        for operand in operands[1:]:
            total += operand
        return total
    return Summed(operands)


def check_alike(*trees: Tree) -> None:
    """Raises BadUpdate unless all trees have the same names and shapes."""
    first = trees[0]
    for other in trees[1:]:
        if first.keys() != other.keys():
            odd = sorted(first.keys() ^ other.keys())[:3]
            raise BadUpdate(say("The trees differ in their names: {odd}.", odd=", ".join(odd)))
        for name, leaf in first.items():
            if leaf.shape != other[name].shape:
                raise BadUpdate(
                    say(
                        "{name} has shape {shape} where {expected} was expected.",
                        name=name,
                        shape=tuple(other[name].shape),
                        expected=tuple(leaf.shape),
                    )
                )


def is_finite(tree: Tree) -> bool:
    """Whether every number of every leaf is finite."""
    return all(
        bool(np.isfinite(leaf).all()) if _is_small(leaf) else all(bool(np.isfinite(part).all()) for part in slices(leaf)) for leaf in tree.values()
    )


def _is_small(leaf: Array) -> bool:
    """Whether it is in memory and no more than a slice."""
    return isinstance(leaf, np.ndarray) and leaf.size <= SLICE
