"""Blobs in memory: for the simulator and for tests."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import final

from aimer2.core.errors import NotFound
from aimer2.core.protocols import Blob, BlobWriter
from aimer2.core.task import BlobRef


@final
@dataclass(frozen=True, slots=True)
class MemoryBlob:
    ref: BlobRef
    data: bytes

    @property
    def path(self) -> Path | None:
        return None

    def view(self) -> memoryview:
        return memoryview(self.data)


@final
class MemoryStore:
    def __init__(self) -> None:
        self._blobs: dict[str, MemoryBlob] = {}

    def create(self) -> BlobWriter:
        return _MemoryWriter(self._blobs)

    def open(self, ref: BlobRef) -> Blob:
        found = self._blobs.get(ref.sha256)
        if found is None:
            raise NotFound(f"There is no blob {ref.sha256[:16]}….")
        return found

    def __contains__(self, ref: BlobRef) -> bool:
        return ref.sha256 in self._blobs

    def delete(self, *refs: BlobRef) -> None:
        for ref in refs:
            self._blobs.pop(ref.sha256, None)


@final
class _MemoryWriter:
    def __init__(self, blobs: dict[str, MemoryBlob]) -> None:
        self._blobs = blobs
        self._parts: list[bytes] = []

    def write(self, data: bytes | memoryview) -> None:
        self._parts.append(bytes(data))

    def commit(self) -> BlobRef:
        data = b"".join(self._parts)
        ref = BlobRef(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        self._blobs[ref.sha256] = MemoryBlob(ref, data)
        return ref

    def abandon(self) -> None:
        self._parts.clear()
