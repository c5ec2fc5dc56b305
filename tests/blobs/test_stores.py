"""What every blob store promises."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from aimer2.blobs.folder import SMALL_BYTES, FolderStore
from aimer2.blobs.memory import MemoryStore
from aimer2.core.errors import NotFound
from aimer2.core.protocols import BlobStore
from aimer2.core.task import BlobRef

SIZES = [0, 1, SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1, 3_000_001]


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return MemoryStore() if request.param == "memory" else FolderStore(tmp_path / "blobs")


def some(size: int) -> bytes:
    return (hashlib.sha256(str(size).encode()).digest() * (size // 32 + 1))[:size]


def write(store: BlobStore, data: bytes, piece: int = 50_000) -> BlobRef:
    writer = store.create()
    for start in range(0, len(data), piece):
        writer.write(memoryview(data)[start : start + piece])
    return writer.commit()


@pytest.mark.parametrize("size", SIZES)
def test_bytes_come_back_under_their_sha256(store: BlobStore, size: int) -> None:
    data = some(size)
    ref = write(store, data)
    assert ref == BlobRef(sha256=hashlib.sha256(data).hexdigest(), size=size)
    assert ref in store
    found = store.open(ref)
    assert (found.ref, bytes(found.view())) == (ref, data)
    assert found.view().readonly
    if found.path is not None:
        assert found.path.read_bytes() == data


@pytest.mark.parametrize("pieces", [[SMALL_BYTES, 1], [1, SMALL_BYTES], [SMALL_BYTES + 1], [1] * 9, [0, 5, 0]])
def test_how_it_was_written_does_not_show(store: BlobStore, pieces: list[int]) -> None:
    writer, data = store.create(), b""
    for number, size in enumerate(pieces):
        piece = bytes([number]) * size
        data += piece
        writer.write(piece)
    assert bytes(store.open(writer.commit()).view()) == data


@pytest.mark.parametrize("size", [100, 200_000])
def test_a_buffer_may_be_used_again_after_the_next_one_was_written(store: BlobStore, size: int) -> None:
    buffers, writer = [bytearray(size), bytearray(size)], store.create()
    for number in range(6):
        buffers[number % 2][:] = bytes([number]) * size
        writer.write(memoryview(buffers[number % 2]))
    data = b"".join(bytes([number]) * size for number in range(6))
    ref = writer.commit()
    assert ref.sha256 == hashlib.sha256(data).hexdigest()
    assert bytes(store.open(ref).view()) == data


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_there_before_commit_nor_after_abandon(store: BlobStore, size: int) -> None:
    data = some(size)
    ref = BlobRef(sha256=hashlib.sha256(data).hexdigest(), size=size)
    writer = store.create()
    writer.write(data)
    assert ref not in store
    writer.abandon()
    assert ref not in store
    with pytest.raises(NotFound):
        store.open(ref)


@pytest.mark.parametrize("size", SIZES)
def test_the_same_bytes_twice_are_one_blob(store: BlobStore, size: int) -> None:
    assert write(store, some(size)) == write(store, some(size), piece=7_919)
    store.delete(write(store, some(size)))
    assert write(store, some(size)) in store


@pytest.mark.parametrize("size", SIZES)
def test_deleting(store: BlobStore, size: int) -> None:
    ref, other = write(store, some(size)), write(store, b"other")
    view = store.open(ref).view()
    store.delete(ref)
    store.delete(ref)
    assert ref not in store
    assert other in store
    assert bytes(view) == some(size)  # who reads it reads on
    store.delete(ref, other)
    assert other not in store
    store.delete()
    with pytest.raises(NotFound):
        store.open(ref)
