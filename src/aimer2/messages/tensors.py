"""Trees as bytes, in the safetensors layout: 8 bytes of header length, a JSON header, the arrays.

Written by streaming the arrays' own buffers, read by memory-mapping or lazily from the file: neither side ever holds a model twice. The
bytes of a tree are unique (names sorted, no padding choices), so equal trees have equal digests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from typing import Any, TypeAlias

import numpy as np

from aimer2.core.errors import BadUpdate
from aimer2.core.protocols import Blob, BlobWriter
from aimer2.core.said import say
from aimer2.core.tree import Array, ArrayFile, FileArray, Tree, slices

LAZY_BYTES = 1 << 20
"""Blobs from this size on stay in their file when they are read lazily."""

_TYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    # the words of masked sums
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    # compressed updates
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
}
_CODES = {(dtype.kind, dtype.itemsize): code for code, dtype in _TYPES.items()}
_AT_ONCE = 1 << 16
"""Bytes of an array in memory that are written as one copy: to cut them into slices would take longer."""

_HEADER_LIMIT = 100 * 1024 * 1024
_DIMENSIONS = 32
_KEPT_HEADER = 16 * 1024
"""Bytes of a header up to which its meaning is kept: every round of a study has the same ones."""

Entries: TypeAlias = Mapping[str, tuple[np.dtype[Any], tuple[int, ...], int, int]]
"""By name: type, shape, first byte and the byte after the last, counted from the first array."""

_METADATA = "__metadata__"
"""The layout's own entry. Blobs of ours have none: what travels is arrays."""


def write_tree(tree: Tree, writer: BlobWriter) -> None:
    """Streams the tree into the writer.

    Raises BadUpdate for a leaf of a type that does not travel, and for a name that no blob can have.
    """
    names = sorted(tree)
    layout = []
    for name in names:
        leaf = tree[name]
        code = _CODES.get((leaf.dtype.kind, leaf.dtype.itemsize))
        if code is None:
            raise BadUpdate(
                say(
                    "{name} is {dtype}; only float16, float32, float64, int64, uint8, uint16, uint32 and uint64 travel.",
                    name=name,
                    dtype=leaf.dtype.name,
                )
            )
        layout.append((name, code, tuple(leaf.shape)))
    writer.write(_header(tuple(layout)))
    for name, code, _ in layout:
        leaf = tree[name]
        if isinstance(leaf, np.ndarray) and leaf.nbytes <= _AT_ONCE:
            writer.write(leaf.astype(_TYPES[code], copy=False).tobytes())
            continue
        for part in slices(leaf, 1 << 18):
            writer.write(np.ascontiguousarray(part, dtype=_TYPES[code]).data.cast("B") if len(part) else b"")


@lru_cache(maxsize=64)
def _header(layout: tuple[tuple[str, str, tuple[int, ...]], ...]) -> bytes:
    """The bytes before the arrays; the same in every round of a study, so the last ones are kept."""
    entries: dict[str, Any] = {}
    offset = 0
    for name, code, shape in layout:
        _check_name(name)
        length = prod(shape) * _TYPES[code].itemsize
        entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, offset + length]}
        offset += length
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_tree(blob: Blob, *, lazy: bool = False) -> dict[str, Array]:
    """The tree that a blob holds: read-only views of its bytes, or with ``lazy`` arrays that stay in their file.

    Raises BadUpdate where the bytes are not such a tree.
    """
    if lazy and blob.path is not None and blob.ref.size >= LAZY_BYTES:
        with open(blob.path, "rb") as file:
            start = _header_end(file.read(8), blob.ref.size)
            entries = _entries(file.read(start - 8), blob.ref.size - start)
        arrays = ArrayFile(blob.path)
        return {name: FileArray(arrays, start + low, shape, dtype) for name, (dtype, shape, low, _) in entries.items()}
    view = blob.view()
    start = _header_end(view[:8], len(view))
    entries = _entries(bytes(view[8:start]), len(view) - start)
    return {
        name: np.frombuffer(view[start + low : start + high], dtype).reshape(shape) if high > low else np.zeros(shape, dtype)
        for name, (dtype, shape, low, high) in entries.items()
    }


def _header_end(first: bytes | memoryview, total: int) -> int:
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > min(_HEADER_LIMIT, total - 8):
        raise BadUpdate("The bytes are not a tensor blob: their header is cut off.")
    return 8 + length


def _entries(text: bytes, room: int) -> Entries:
    return _kept_entries(text, room) if len(text) <= _KEPT_HEADER else _parse(text, room)


@lru_cache(maxsize=64)
def _kept_entries(text: bytes, room: int) -> Entries:
    return _parse(text, room)


def _parse(text: bytes, room: int) -> Entries:
    entries: dict[str, tuple[np.dtype[Any], tuple[int, ...], int, int]] = {}
    expected = 0
    try:
        for name, entry in json.loads(text).items():
            _check_name(name)
            dtype, shape, (low, high) = _TYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
            if low != expected or high - low != _length(shape) * dtype.itemsize:
                raise ValueError
            expected = high
            entries[name] = (dtype, shape, int(low), int(high))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, BadUpdate):
        raise BadUpdate("The bytes are not a tensor blob: their header makes no sense.") from None
    if expected != room:
        raise BadUpdate("The bytes are not a tensor blob: header and data do not fit together.")
    return entries


def _length(shape: tuple[Any, ...]) -> int:
    """Number of elements. Raises ValueError for a shape that no array can have; one with no elements must fit as if it had some."""
    if len(shape) > _DIMENSIONS or any(type(length) is not int or length < 0 for length in shape):
        raise ValueError
    if prod(max(length, 1) for length in shape) >= 1 << 59:
        raise ValueError
    return prod(shape)


def _check_name(name: str) -> None:
    if name == _METADATA or not name.isprintable():
        raise BadUpdate(say("{name} is no name of an array.", name=f"{name!r}"))
