"""Blobs in a folder: one file each, under its SHA-256; what is being received lies beside them until its last byte has been checked."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import final

from aimer2.core.errors import BadInput, Conflict, NotFound, OutOfResources, Tampered
from aimer2.core.protocols import Blob, BlobWriter
from aimer2.core.task import BlobRef

_PIECE = 1 << 20
_NAME = re.compile(r"[0-9a-f]{64}")


@final
@dataclass(frozen=True, slots=True)
class FileBlob:
    ref: BlobRef
    path: Path

    def view(self) -> memoryview:
        if self.ref.size == 0:
            return memoryview(b"")
        with open(self.path, "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


@final
class FolderStore:
    """A blob store in a folder of one file system; several processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._incoming = folder / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)

    def create(self) -> BlobWriter:
        return _FileWriter(self, self._incoming / secrets.token_hex(16))

    def open(self, ref: BlobRef) -> Blob:
        return self.find(ref.sha256)

    def find(self, sha256: str) -> FileBlob:
        """The blob of this name, whatever its length. Raises NotFound."""
        path = self.path(sha256)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise NotFound(f"There is no blob {sha256[:16]}….") from None
        return FileBlob(BlobRef(sha256=sha256, size=size), path)

    def __contains__(self, ref: BlobRef) -> bool:
        return self.path(ref.sha256).exists()

    def delete(self, ref: BlobRef) -> None:
        self.path(ref.sha256).unlink(missing_ok=True)

    def path(self, sha256: str) -> Path:
        if not _NAME.fullmatch(sha256):
            raise BadInput("A blob is named by its SHA-256, 64 hexadecimal digits.")
        return self.folder / sha256[:2] / sha256

    def partial(self, ref: BlobRef) -> PartialBlob:
        """A blob that is being received and may be interrupted; what came so far is still there the next time."""
        self.path(ref.sha256)
        return PartialBlob(self, ref, self._incoming / f"{ref.sha256}.partial")

    def adopt(self, file: Path, sha256: str) -> None:
        """Moves a finished file of this folder to its name."""
        path = self.path(sha256)
        try:
            os.replace(file, path)
        except FileNotFoundError:
            path.parent.mkdir(exist_ok=True)
            os.replace(file, path)


@final
class _FileWriter:
    def __init__(self, store: FolderStore, path: Path) -> None:
        self._store = store
        self._path = path
        self._hash = hashlib.sha256()
        self._size = 0
        with _disk_errors():
            self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - closed by commit or abandon

    def write(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self._size += len(data)
        with _disk_errors():
            _write_all(self._file.fileno(), data)

    def commit(self) -> BlobRef:
        self._file.close()
        ref = BlobRef(sha256=self._hash.hexdigest(), size=self._size)
        with _disk_errors():
            self._store.adopt(self._path, ref.sha256)
        return ref

    def abandon(self) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)


@final
class PartialBlob:
    """Bytes of a blob on their way in, known by its name; they go on where they stopped, after a restart too."""

    def __init__(self, store: FolderStore, ref: BlobRef, path: Path) -> None:
        self._store = store
        self._path = path
        self._hash = hashlib.sha256()
        self._hashed = 0
        self.ref = ref
        with _disk_errors():
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self.offset = os.fstat(self._file).st_size

    def write(self, data: bytes | memoryview) -> None:
        """Appends. Raises Conflict beyond the announced size, OutOfResources when the disk is full (what came so far is kept)."""
        if self.offset + len(data) > self.ref.size:
            raise Conflict("More bytes came than were announced.")
        self._hash_up_to_here()
        with _disk_errors():
            os.lseek(self._file, self.offset, os.SEEK_SET)
            _write_all(self._file, data)
        self._hash.update(data)
        self.offset += len(data)
        self._hashed = self.offset

    def finish(self) -> BlobRef:
        """The blob takes its name. Raises Tampered, and forgets the bytes, where they do not have this SHA-256."""
        if self.offset != self.ref.size:
            raise Conflict(f"{self.offset} of {self.ref.size} bytes have come.")
        self._hash_up_to_here()
        self.close()
        if self._hash.hexdigest() != self.ref.sha256:
            self._path.unlink(missing_ok=True)
            raise Tampered("The bytes that came do not have the announced SHA-256.")
        with _disk_errors():
            self._store.adopt(self._path, self.ref.sha256)
        return self.ref

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def forget(self) -> None:
        self.close()
        self._path.unlink(missing_ok=True)

    def _hash_up_to_here(self) -> None:
        while self._hashed < self.offset:
            piece = os.pread(self._file, min(_PIECE, self.offset - self._hashed), self._hashed)
            self._hash.update(piece)
            self._hashed += len(piece)


def _write_all(file: int, data: bytes | memoryview) -> None:
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(file, view) :]


class _disk_errors:  # noqa: N801 - reads as a statement
    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutOfResources("The disk is full.") from None
