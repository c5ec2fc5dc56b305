"""Tensor bytes between agent and worker: files that lie in memory and can no longer change once they are handed over."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from aimer2.core.errors import BadUpdate
from aimer2.core.protocols import Blob
from aimer2.core.task import BlobRef

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@final
class MemoryFile:
    """A file in memory that is being written; `seal` gives its descriptor, and nobody can change it any more."""

    def __init__(self) -> None:
        self._file = os.memfd_create("aimer2", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        while view:
            view = view[os.write(self._file, view) :]

    def seal(self) -> int:
        fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, _SEALS)
        return self._file

    def commit(self) -> BlobRef:
        return OpenFile(self.seal()).ref

    def abandon(self) -> None:
        os.close(self._file)


@final
@dataclass(frozen=True, slots=True)
class OpenFile:
    """The bytes behind a descriptor."""

    file: int

    @property
    def path(self) -> None:
        return None

    @property
    def ref(self) -> BlobRef:
        view = self.view()
        return BlobRef(sha256=hashlib.sha256(view).hexdigest(), size=len(view))

    def view(self) -> memoryview:
        size = os.fstat(self.file).st_size
        return memoryview(mmap.mmap(self.file, size, access=mmap.ACCESS_READ) if size else b"")


def require_sealed(file: int) -> None:
    """Raises BadUpdate unless these bytes can no longer change: the worker could otherwise swap them after they were checked."""
    try:
        sealed = fcntl.fcntl(file, fcntl.F_GET_SEALS)
    except OSError:
        raise BadUpdate("The worker handed over a file that is not sealed.") from None
    if sealed & _SEALS != _SEALS:
        raise BadUpdate("The worker handed over a file that is not sealed.")


def open_blob(blob: Blob) -> int:
    """A read-only descriptor of a stored blob."""
    if blob.path is not None:
        return os.open(blob.path, os.O_RDONLY | os.O_CLOEXEC)
    file = MemoryFile()
    file.write(blob.view())
    return file.seal()


def close(files: Iterable[int]) -> None:
    for file in files:
        os.close(file)
