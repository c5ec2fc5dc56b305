"""Blobs in a folder: one file each, under its SHA-256; what is being received lies beside them until its last byte has been checked.

Small blobs share one SQLite file: making a file costs a third of a millisecond, ten times what a row costs, and a round of a small model is
nothing but small blobs.

A killed process loses nothing that was stored. A power cut may: files are not forced onto the disk, which would cost more than all else of a
round of a large model. So a file from before the machine's last start is hashed once before it is used again; one that does not have its
name's digest is erased, and counts as never stored.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

from aimer2.blobs.memory import MemoryBlob
from aimer2.core.errors import BadInput, Conflict, NotFound, OutOfResources, Tampered
from aimer2.core.protocols import Blob, BlobWriter
from aimer2.core.task import BlobRef

SMALL_BYTES = 64 * 1024
"""Up to this size a blob is a row."""

STALE_SECONDS = 7 * 86_400
"""What is being received and has not grown for so long is given up."""

RECENT = 64
"""So many of the small blobs that were stored last are in memory as well: most are wanted once, a moment later."""

_PIECE = 1 << 20
_MOST_PIECES = 1024
"""The kernel takes no more at once."""

_HASHERS = ThreadPoolExecutor(4, thread_name_prefix="hash")
_NAME = re.compile(r"[0-9a-f]{64}")
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_TRUNCATE}


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

    def __init__(self, folder: Path, started: float | None = None) -> None:
        """``started``: when the machine was, by the clock that stamps files; None: as the kernel says."""
        self.folder = folder
        self._incoming = folder / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)
        self._local = threading.local()
        self._root = str(folder)
        self._recent: dict[str, bytes] = {}
        self._started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) if started is None else started
        self.sweep(time.time())

    def sweep(self, now: float) -> None:
        """Erases what a dead process, or an upload that never went on, has left half-done."""
        for entry in os.scandir(self._incoming):
            try:
                if entry.stat().st_ctime < now - STALE_SECONDS:
                    os.unlink(entry)
            except FileNotFoundError:
                continue

    def create(self) -> BlobWriter:
        return _FolderWriter(self)

    def open(self, ref: BlobRef) -> Blob:
        recent = self._recent.get(ref.sha256)
        if recent is not None and len(recent) == ref.size:
            return MemoryBlob(ref, recent)
        return self.find(ref.sha256)

    def find(self, sha256: str) -> Blob:
        """The blob of this name, whatever its length. Raises NotFound."""
        row = self._small.execute("SELECT data FROM small WHERE sha256 = ?", (sha256,)).fetchone()
        if row is not None:
            return MemoryBlob(BlobRef(sha256=sha256, size=len(row[0])), row[0])
        path = self.path(sha256)
        try:
            status = path.stat()
            if status.st_ctime < self._started:
                self._check(path)
        except FileNotFoundError:
            raise NotFound(f"There is no blob {sha256[:16]}….") from None
        return FileBlob(BlobRef(sha256=sha256, size=status.st_size), path)

    def _check(self, path: Path) -> None:
        """Once after each start of the machine: it may have gone down before all of the file was on the disk. Raises FileNotFoundError."""
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == path.name:
                os.utime(file.fileno())
                return
        path.unlink(missing_ok=True)
        raise FileNotFoundError

    def __contains__(self, ref: BlobRef) -> bool:
        try:
            self.find(ref.sha256)
        except NotFound:
            return False
        return True

    def delete(self, *refs: BlobRef) -> None:
        with self._small as small:
            small.executemany("DELETE FROM small WHERE sha256 = ?", [(ref.sha256,) for ref in refs])
        for ref in refs:
            self._recent.pop(ref.sha256, None)
            # a small one too: it is a file where it was received in parts, and its size is what somebody said
            with suppress(FileNotFoundError):
                os.unlink(self._place(ref.sha256))

    def retain(self, names: Collection[str]) -> None:
        """Deletes all blobs but these, given by their SHA-256."""
        rows = [str(row[0]) for row in self._small.execute("SELECT sha256 FROM small")]
        files = [path.name for path in self.folder.glob("[0-9a-f][0-9a-f]/*")]
        self.delete(*(BlobRef(sha256=name, size=0) for name in {*rows, *files}.difference(names)))

    def settle(self) -> None:
        """The log that changes go through still holds what they deleted; it is emptied. Off the path of a round: it waits for the disk."""
        self._small.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def put(self, *blobs: bytes, names: Sequence[str] | None = None) -> list[BlobRef]:
        """Stores blobs that are in memory; the small ones in one transaction. ``names``: their digests, where they were checked already."""
        names = names or [hashlib.sha256(data).hexdigest() for data in blobs]
        refs = [BlobRef(sha256=sha256, size=len(data)) for sha256, data in zip(names, blobs, strict=True)]
        rows = [(ref.sha256, data) for ref, data in zip(refs, blobs, strict=True) if ref.size <= SMALL_BYTES]
        with _disk_errors(), self._small as small:
            small.executemany("INSERT OR IGNORE INTO small VALUES (?, ?)", rows)
        self._remember(rows)
        for data in blobs:
            if len(data) > SMALL_BYTES:
                writer = self.create()
                try:
                    writer.write(data)
                    writer.commit()
                except BaseException:
                    writer.abandon()
                    raise
        return refs

    def _remember(self, rows: Sequence[tuple[str, bytes]]) -> None:
        self._recent.update(rows[-RECENT:])
        for sha256 in list(self._recent)[:-RECENT]:
            self._recent.pop(sha256, None)

    @property
    def _small(self) -> sqlite3.Connection:
        """One connection per thread: SQLite serialises writers itself."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.folder / "small.sqlite", timeout=30)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            # An update that was erased is not to be found in the file's free pages; `settle` takes it out of the log.
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("CREATE TABLE IF NOT EXISTS small (sha256 TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID")
            self._local.connection = connection
        return connection

    def path(self, sha256: str) -> Path:
        return Path(self._place(sha256))

    def _place(self, sha256: str) -> str:
        if not _NAME.fullmatch(sha256):
            raise BadInput("A blob is named by its SHA-256, 64 hexadecimal digits.")
        return f"{self._root}/{sha256[:2]}/{sha256}"

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
class _FolderWriter:
    """Gathers in memory up to the small size, then goes to a file. A piece must not change before the next call."""

    def __init__(self, store: FolderStore) -> None:
        self._store = store
        self._small: bytearray | None = bytearray()
        self._path = store.folder / "incoming" / secrets.token_hex(16)
        self._file = -1
        self._hash = hashlib.sha256()
        self._hashing: Future[None] | None = None
        self._size = 0

    def write(self, data: bytes | memoryview) -> None:
        self._size += len(data)
        if self._small is not None:
            self._small += data
            if self._size <= SMALL_BYTES:
                return
            data, self._small = memoryview(bytes(self._small)), None
            with _disk_errors():
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        # A core hashes this piece while another one writes it and computes the next.
        self._hashed()
        self._hashing = _HASHERS.submit(self._hash.update, data)
        with _disk_errors():
            _write_all(self._file, data)

    def commit(self) -> BlobRef:
        if self._small is not None:
            return self._store.put(bytes(self._small))[0]
        self._hashed()
        ref = BlobRef(sha256=self._hash.hexdigest(), size=self._size)
        with _disk_errors():
            self._store.adopt(self._path, ref.sha256)
        self._close()
        return ref

    def abandon(self) -> None:
        if self._file >= 0:
            self._hashed()
            self._close()
            self._path.unlink(missing_ok=True)

    def _close(self) -> None:
        os.close(self._file)
        self._file = -1

    def _hashed(self) -> None:
        if self._hashing is not None:
            self._hashing.result()
            self._hashing = None


@final
class PartialBlob:
    """Bytes of a blob on their way in, known by its name; they go on where they stopped, after a restart too.

    Raises Conflict while another has it open: who writes must not reach a file that has been checked meanwhile.
    """

    def __init__(self, store: FolderStore, ref: BlobRef, path: Path) -> None:
        self._store = store
        self._path = path
        self._hash = hashlib.sha256()
        self._hashed = 0
        self.ref = ref
        self._file = -1
        with _disk_errors():
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if not _is_ours(self._file, path):
            self.close()
            raise Conflict("This blob is being received already.")
        self.offset = os.fstat(self._file).st_size
        if self.offset > ref.size:
            # announced with another size before: those bytes are of no use
            os.ftruncate(self._file, 0)
            self.offset = 0

    def __del__(self) -> None:
        self.close()

    def write(self, *pieces: bytes | memoryview) -> None:
        """Appends. Raises Conflict beyond the announced size, OutOfResources when the disk is full (what came so far is kept)."""
        length = sum(map(len, pieces))
        if self.offset + length > self.ref.size:
            raise Conflict("More bytes came than were announced.")
        self._hash_up_to_here()
        with _disk_errors():
            written = os.pwritev(self._file, pieces[:_MOST_PIECES], self.offset)
            if written < length:
                os.lseek(self._file, self.offset + written, os.SEEK_SET)
                for rest in _rest(pieces, written):
                    _write_all(self._file, rest)
        for piece in pieces:
            self._hash.update(piece)
        self.offset += length
        self._hashed = self.offset

    def finish(self) -> BlobRef:
        """The blob takes its name. Raises Tampered, and forgets the bytes, where they do not have this SHA-256."""
        if self.offset != self.ref.size:
            raise Conflict(f"{self.offset} of {self.ref.size} bytes have come.")
        self._hash_up_to_here()
        try:
            if self._hash.hexdigest() != self.ref.sha256:
                self._path.unlink(missing_ok=True)
                raise Tampered("The bytes that came do not have the announced SHA-256.")
            with _disk_errors():
                self._store.adopt(self._path, self.ref.sha256)
        finally:
            self.close()
        return self.ref

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)
        self.close()

    def _hash_up_to_here(self) -> None:
        while self._hashed < self.offset:
            piece = os.pread(self._file, min(_PIECE, self.offset - self._hashed), self._hashed)
            self._hash.update(piece)
            self._hashed += len(piece)


def _write_all(file: int, data: bytes | memoryview) -> None:
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(file, view) :]


def _rest(pieces: Sequence[bytes | memoryview], start: int) -> Iterator[memoryview]:
    """The pieces without their first bytes."""
    for piece in pieces:
        if start < len(piece):
            yield memoryview(piece)[start:]
        start = max(0, start - len(piece))


def _is_ours(file: int, path: Path) -> bool:
    """Locks the open file for as long as it is open; False where another has it, or it has been moved to its name meanwhile."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False


class _disk_errors:
    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full or (isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode in _FULL):
            raise OutOfResources("The disk is full.") from None
