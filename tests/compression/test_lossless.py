"""The way down without loss: the very same bytes again, whatever they are, and nothing else than them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from aimer2.blobs.folder import FolderStore
from aimer2.blobs.memory import MemoryBlob, MemoryStore
from aimer2.compression.lossless import pack, unpack
from aimer2.core.errors import BadUpdate
from aimer2.core.protocols import Blob, BlobStore
from aimer2.messages.tensors import write_tree

SIZES = st.sampled_from([0, 1, 7, 8, 9, 1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 13])


def stored(data: bytes, blobs: BlobStore | None = None) -> Blob:
    store = blobs or MemoryStore()
    writer = store.create()
    writer.write(data)
    return store.open(writer.commit())


def packed(data: bytes, base: bytes | None = None) -> Blob:
    store = MemoryStore()
    writer = store.create()
    pack(stored(data), None if base is None else stored(base), writer)
    return store.open(writer.commit())


def unpacked(blob: Blob, size: int, base: bytes | None = None) -> bytes:
    store = MemoryStore()
    writer = store.create()
    unpack(blob, None if base is None else stored(base), size, writer)
    return bytes(store.open(writer.commit()).view())


@given(size=SIZES, seed=st.integers(0, 99), with_base=st.booleans())
@settings(max_examples=40, deadline=None)
def test_what_comes_out_is_what_went_in(size: int, seed: int, with_base: bool) -> None:
    rng = np.random.default_rng(seed)
    data, base = rng.bytes(size), rng.bytes(size) if with_base else None
    blob = packed(data, base)
    assert unpacked(blob, size, base) == data
    assert packed(data, base).ref == blob.ref, "the same bytes each time"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_model_of_which_little_has_changed_costs_little_and_any_model_less_than_before(dtype: type) -> None:
    rng = np.random.default_rng(1)
    weights = rng.normal(0, 0.05, 200_001).astype(dtype)
    moved = weights.copy()
    moved[rng.choice(len(weights), 2000, replace=False)] += dtype(0.01)

    def model(values: np.ndarray) -> bytes:  # type: ignore[type-arg]
        store = MemoryStore()
        writer = store.create()
        write_tree({"a.bias": np.ones(3, np.float32), "w": values}, writer)
        return bytes(store.open(writer.commit()).view())

    old, new = model(weights), model(moved)
    assert packed(new).ref.size < 0.97 * len(new)
    assert packed(new, old).ref.size < 0.03 * len(new)
    assert unpacked(packed(new, old), len(new), old) == new


def test_other_bytes_are_refused() -> None:
    data = np.random.default_rng(2).bytes(5000)
    good = bytes(packed(data).view())
    for bad in (b"", b"nonsense", good[:-9], good[: len(good) // 2], b"\0" + good):
        with pytest.raises(BadUpdate):
            unpacked(stored(bad), len(data))
    for size in (0, 4999, 5001):
        with pytest.raises(BadUpdate):
            unpacked(stored(good), size)
    with pytest.raises(BadUpdate, match="another size"):
        unpacked(stored(good), len(data), data[:-1])


def test_a_small_blob_that_unpacks_to_gigabytes_takes_no_more_than_was_announced(tmp_path: Path) -> None:
    bomb = zstandard.ZstdCompressor().compressobj()
    data = b"".join([*(bomb.compress(bytes(1 << 20)) for _ in range(1000)), bomb.flush()])
    assert len(data) < 200_000
    tracemalloc.start()
    with pytest.raises(BadUpdate, match="More bytes"):
        unpacked(stored(data), 3 << 20)
    assert tracemalloc.get_traced_memory()[1] < 30 << 20
    tracemalloc.stop()


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    rng = np.random.default_rng(3)
    old, new = stored(rng.bytes(40 << 20), store), stored(rng.bytes(40 << 20), store)
    tracemalloc.start()
    writer = store.create()
    pack(new, old, writer)
    blob = store.open(writer.commit())
    writer = store.create()
    unpack(blob, old, new.ref.size, writer)
    assert writer.commit() == new.ref
    assert tracemalloc.get_traced_memory()[1] < 12 << 20
    tracemalloc.stop()


def test_a_blob_in_memory_is_one_too() -> None:
    blob = stored(b"abc")
    assert isinstance(blob, MemoryBlob) and unpacked(packed(b"abc"), 3) == b"abc"
