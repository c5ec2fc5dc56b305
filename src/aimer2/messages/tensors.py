"""Trees as bytes, in the safetensors layout: 8 bytes of header length, a JSON header, the arrays.

Written by streaming the arrays' own buffers, read by memory-mapping or lazily from the file: neither side ever holds a model twice. The
bytes of a tree are unique (names sorted, no padding choices), so equal trees have equal digests.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from aimer2.core.errors import BadUpdate
from aimer2.core.protocols import Blob, BlobWriter
from aimer2.core.tree import Array, FileArray, Tree, size, slices

LAZY_BYTES = 1 << 20
"""Leaves from this size on stay in their file when a tree is read lazily."""

_CODES = {"float32": "F32", "float64": "F64", "int64": "I64"}
_TYPES = {code: np.dtype(name).newbyteorder("<") for name, code in _CODES.items()}
_HEADER_LIMIT = 100 * 1024 * 1024


def write_tree(tree: Tree, writer: BlobWriter) -> None:
    """Streams the tree into the writer.

    Raises BadUpdate for a leaf that is not float32, float64 or int64.
    """
    names = sorted(tree)
    header: dict[str, Any] = {}
    offset = 0
    for name in names:
        leaf = tree[name]
        code = _CODES.get(leaf.dtype.name)
        if code is None:
            raise BadUpdate(f"{name} is {leaf.dtype.name}; only float32, float64 and int64 travel.")
        length = size(leaf) * leaf.dtype.itemsize
        header[name] = {"dtype": code, "shape": list(leaf.shape), "data_offsets": [offset, offset + length]}
        offset += length
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    writer.write(len(text).to_bytes(8, "little") + text)
    for name in names:
        for part in slices(tree[name], 1 << 18):
            writer.write(np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<")).data.cast("B") if len(part) else b"")


def read_tree(blob: Blob, *, lazy: bool = False) -> dict[str, Array]:
    """The tree that a blob holds: read-only views of its bytes, or with ``lazy`` arrays that stay in their file.

    Raises BadUpdate where the bytes are not such a tree.
    """
    if lazy and blob.path is not None and blob.ref.size >= LAZY_BYTES:
        with open(blob.path, "rb") as file:
            start = _header_end(file.read(8), blob.ref.size)
            entries = _entries(file.read(start - 8), blob.ref.size - start)
        return {name: FileArray(blob.path, start + low, shape, dtype) for name, (dtype, shape, low, _) in entries.items()}
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


def _entries(text: bytes, room: int) -> dict[str, tuple[np.dtype[Any], tuple[int, ...], int, int]]:
    try:
        header = json.loads(text)
        entries = {}
        expected = 0
        for name, entry in header.items():
            dtype, shape = _TYPES[entry["dtype"]], tuple(int(length) for length in entry["shape"])
            low, high = entry["data_offsets"]
            if low != expected or min(shape, default=0) < 0 or high - low != int(np.prod(shape, dtype=object)) * dtype.itemsize:
                raise ValueError
            expected = high
            entries[str(name)] = (dtype, shape, low, high)
        if expected != room:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
        raise BadUpdate("The bytes are not a tensor blob: header and data do not fit together.") from None
    return entries
