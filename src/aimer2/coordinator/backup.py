"""A coordinator's backup: one tar file with everything, each file's SHA-256 in it; restored only whole."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import IO

from aimer2.coordinator.settings import SETTINGS_FILE, Folder
from aimer2.coordinator.store.database import Database
from aimer2.core.errors import BadInput, Conflict, NotAvailable, Tampered
from aimer2.core.said import say

_MANIFEST = "manifest.json"
_SCRATCH = ".backup-"
_PIECE = 1 << 20
_BUSY_SECONDS = 30


def back_up(folder: Folder, target: Path) -> int:
    """Writes settings, keys, audit log, database and blobs into a new tar file, mode 0600; the number of files in it.

    The coordinator may run meanwhile. The file holds private keys: keep it like them. Raises Conflict if the file exists, NotAvailable for a
    database that is not SQLite or blobs outside the folder.
    """
    settings = folder.read_settings()
    database = Database(folder.database_url(settings)).url
    source = Path(database.database or "")
    if database.get_backend_name() != "sqlite":
        raise NotAvailable("The database is not in the folder.", remedy="Use the database's own backup (pg_dump), and copy the folder.")
    root = folder.path.resolve()
    if not folder.resolve(settings.blobs).is_relative_to(root) or not source.is_relative_to(root):
        raise NotAvailable("The database or the blobs lie outside of the folder.", remedy="Back them up where they lie, and copy the folder.")
    try:
        file = os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError:
        raise Conflict(say("{target} exists and is not overwritten.", target=target)) from None
    with file, tempfile.TemporaryDirectory(dir=root, prefix=_SCRATCH) as scratch:
        held = Path(scratch)
        _hold(root, source, folder.resolve(settings.blobs), held, target.resolve())
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            digests: dict[str, str] = {}
            for path in sorted(path for path in held.rglob("*") if path.is_file()):
                _add(archive, path, str(path.relative_to(held)), digests)
            manifest = json.dumps({"format": 1, "files": digests}, indent=1).encode()
            _add_member(archive, _MANIFEST, len(manifest), io.BytesIO(manifest))
    return len(digests)


def _hold(root: Path, source: Path, blobs: Path, held: Path, target: Path) -> None:
    """Everything as it is at one moment, in a scratch folder: databases copied, files linked.

    Meanwhile no other process can write to the database, so no round can end: a blob that a row names is not deleted.
    """
    databases = [source, *sorted(blobs.rglob("*.sqlite"))]
    with closing(sqlite3.connect(source, timeout=_BUSY_SECONDS, isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        for path in databases:
            copy = held / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            _copy_database(path, copy)
        for path in _plain_files(root, databases, target):
            link = held / path.relative_to(root)
            link.parent.mkdir(parents=True, exist_ok=True)
            # What a study has just ceased to need may vanish between the listing and the link.
            with suppress(FileNotFoundError):
                os.link(path, link)
        lock.execute("ROLLBACK")


def restore(source: Path, folder: Folder) -> int:
    """Unpacks a backup into a folder that is empty or absent, and checks every file; the number of files.

    Raises Conflict where the folder holds something, Tampered where a file is missing or is not what the manifest says: then nothing is left.
    """
    if folder.path.exists() and any(folder.path.iterdir()):
        raise Conflict(say("{path} is not empty.", path=folder.path), remedy="Name an empty folder.")
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.path.parent, prefix=".restore-") as scratch:
        fresh = Path(scratch) / "coordinator"
        fresh.mkdir(mode=0o700)
        try:
            with tarfile.open(source, "r:") as archive:
                archive.extractall(fresh, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise Tampered(say("{source} is not a whole backup.", source=source)) from error
        count = _verify(fresh)
        if not (fresh / SETTINGS_FILE).is_file():
            raise BadInput(say("{source} is not a coordinator's backup.", source=source))
        if folder.path.exists():
            folder.path.rmdir()
        os.rename(fresh, folder.path)
    return count


def _verify(fresh: Path) -> int:
    manifest = fresh / _MANIFEST
    if not manifest.is_file():
        raise Tampered("The backup has no manifest: it was not finished.")
    expected = json.loads(manifest.read_bytes())["files"]
    manifest.unlink()
    found = {str(path.relative_to(fresh)): path for path in fresh.rglob("*") if path.is_file()}
    if found.keys() != expected.keys():
        raise Tampered("The backup has not the files that its manifest names.")
    for name, path in found.items():
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected[name]:
                raise Tampered(say("{name} in the backup is not what its manifest says.", name=name))
    return len(found)


def _plain_files(root: Path, databases: list[Path], target: Path) -> Iterator[Path]:
    skipped = {f"{path}{ending}" for path in databases for ending in ("", "-wal", "-shm")} | {str(root / ".running"), str(target)}
    for path in sorted(root.rglob("*")):
        held = any(part.startswith(_SCRATCH) for part in path.relative_to(root).parts)
        if path.is_file() and str(path) not in skipped and path.parent.name != "incoming" and not held:
            yield path


def _copy_database(source: Path, copy: Path) -> None:
    with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(copy)) as target:
        live.backup(target)


def _add(archive: tarfile.TarFile, path: Path, name: str, digests: dict[str, str]) -> None:
    with path.open("rb") as file:
        # The audit log grows meanwhile: what is there now is what counts.
        size = os.fstat(file.fileno()).st_size
        hashed = _Hashed(file, size)
        _add_member(archive, name, size, hashed)
        digests[name] = hashed.digest.hexdigest()


def _add_member(archive: tarfile.TarFile, name: str, size: int, content: IO[bytes] | _Hashed) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    archive.addfile(member, content)


class _Hashed:
    """Hashes what is read of the first bytes of a file."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size
        self.digest = hashlib.sha256()

    def read(self, size: int = _PIECE) -> bytes:
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        self.digest.update(data)
        return data
