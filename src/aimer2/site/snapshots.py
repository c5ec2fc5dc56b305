"""Which copy of a data set studies compute on: the newest that is not past the hospital's retention."""

from __future__ import annotations

import os
import shutil
from functools import lru_cache
from pathlib import Path

from pydantic import Field

from aimer2.core.errors import NotFound
from aimer2.core.said import say
from aimer2.core.task import Digest, Document
from aimer2.site.folder import SiteFolder
from aimer2.site.settings import Retention

_DAY = 86_400


class SnapshotRecord(Document):
    """One snapshot, as it was made. The digest is also in the audit log."""

    path: Path
    sha256: Digest
    rows: int
    patients: int
    created: float = Field(description="seconds since 1970")
    opted_out: int


def records(folder: SiteFolder, dataset: str) -> list[SnapshotRecord]:
    """Oldest first."""
    place = folder.dataset(dataset) / "snapshots"
    try:
        return list(_read(place, place.stat().st_mtime_ns))
    except FileNotFoundError:
        return []


@lru_cache(maxsize=256)
def _read(place: Path, changed: int) -> tuple[SnapshotRecord, ...]:
    # Every task asks; a record that comes or goes changes the folder's time.
    found = (SnapshotRecord.model_validate_json(path.read_bytes()) for path in place.glob("*.json"))
    return tuple(sorted(found, key=lambda record: record.created))


def names(folder: SiteFolder) -> list[str]:
    return sorted(path.parent.name for path in (folder.path / "datasets").glob("*/dataset.toml"))


def current(folder: SiteFolder, dataset: str, retention: Retention, now: float) -> SnapshotRecord:
    """Raises NotFound where there is none that may still be used."""
    found = [record for record in records(folder, dataset) if not _is_old(record, retention, now)]
    if not found:
        raise NotFound(
            say("The data set '{dataset}' has no snapshot.", dataset=dataset),
            remedy=say("Run `aimer2 site dataset refresh {dataset}`.", dataset=dataset),
        )
    return found[-1]


def erase_old(folder: SiteFolder, dataset: str, retention: Retention, now: float) -> list[SnapshotRecord]:
    """Erases what retention says must go, and returns it."""
    found = records(folder, dataset)
    surplus = found[: -retention.snapshots]
    gone = [record for record in found if record in surplus or _is_old(record, retention, now)]
    for record in gone:
        shutil.rmtree(record.path, ignore_errors=True)
        record_file(record.path).unlink(missing_ok=True)
    return gone


def keep_record(record: SnapshotRecord) -> None:
    """From now on studies compute on it."""
    draft = record.path.with_name(f"{record.path.name}.draft")
    draft.write_text(record.model_dump_json(indent=1), encoding="utf-8")
    os.replace(draft, record_file(record.path))


def record_file(snapshot: Path) -> Path:
    return snapshot.with_name(f"{snapshot.name}.json")


def _is_old(record: SnapshotRecord, retention: Retention, now: float) -> bool:
    return now - record.created > retention.days * _DAY
