"""A data set as a table: typed columns, patients by pseudonym; stored as a snapshot that is hashed and never changes.

A pseudonym is the first 8 bytes of HMAC-SHA256 of the patient's id under the site's secret split key. It keeps a patient's rows together and
decides the side of the held-out split; without the key it says nothing about the patient. Two of a million patients share one with a
probability of 3e-8; they would then count as one.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, final

import numpy as np
import numpy.typing as npt

from aimer2.core.clock import Clock
from aimer2.core.errors import BadData, BadInput, Conflict, NotFound, OutOfResources, Tampered, VersionMismatch
from aimer2.core.said import say
from aimer2.core.study.image import described
from aimer2.core.task import Document
from aimer2.privacy.disclosure import MINIMUM_CELL, coarse, least

Kind: TypeAlias = Literal["number", "category", "image", "mask"]

MISSING = -1
"""The code of a missing category; a missing number is NaN."""

_FORMAT = 1
_TYPES: Mapping[Kind, tuple[np.dtype[Any], ...]] = {
    "number": (np.dtype("<f8"),),
    "category": (np.dtype("<i4"),),
    "image": (np.dtype("u1"), np.dtype("<u2")),
    "mask": (np.dtype("u1"),),
}
_AXES: Mapping[Kind, int] = {"number": 1, "category": 1, "image": 4, "mask": 3}
_PSEUDONYM = np.dtype("<u8")
_SUMS = "SHA256SUMS"
_COLUMNS = "columns.json"
_PATIENT = "patient.npy"


@final
@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One column: float64 numbers (NaN = missing), or int32 codes into ``categories`` (-1 = missing), both ``(n,)``; images of 8 or 16 bits
    ``(n, channels, height, width)``; or masks ``(n, height, width)``, whose uint8 pixels are codes into ``categories``. No image is missing.
    """

    kind: Kind
    values: npt.NDArray[Any]
    categories: tuple[str, ...] = ()
    unit: str | None = None

    @property
    def missing(self) -> npt.NDArray[np.bool_]:
        if self.kind in ("image", "mask"):
            return np.zeros(len(self.values), bool)
        found: npt.NDArray[np.bool_] = np.isnan(self.values) if self.kind == "number" else self.values == MISSING
        return found

    @property
    def form(self) -> str:
        """Of images and masks: channels, size and bits, for people."""
        if self.kind == "image":
            return f"{described(*self.values.shape[1:])}, {8 * self.values.itemsize} bits"
        return "{}×{}".format(*self.values.shape[1:]) if self.kind == "mask" else ""

    def taken(self, rows: npt.NDArray[Any]) -> Column:
        return replace(self, values=self.values[rows])


@final
@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A data set: columns by their standard name, and whose row it is as uint64 pseudonyms ``(n,)``. A patient may have several rows.

    Raises BadData where lengths or types differ, a number is infinite or a code has no category.
    """

    columns: Mapping[str, Column]
    patient: npt.NDArray[np.uint64]
    minimum_cell: int = MINIMUM_CELL
    """No sentence that leaves the site counts fewer of these patients."""

    def __post_init__(self) -> None:
        if self.patient.dtype != _PSEUDONYM or self.patient.ndim != 1:
            raise BadData("The patients' pseudonyms are not a row of uint64.")
        for name, column in self.columns.items():
            _check_column(name, column, len(self.patient))

    def __len__(self) -> int:
        return len(self.patient)


def _check_column(name: str, column: Column, rows: int) -> None:
    values = column.values
    if len(values) != rows or values.ndim != _AXES[column.kind] or values.dtype not in _TYPES[column.kind]:
        raise BadData(
            say(
                "Column {name} is not {rows} values of {types}.",
                name=f"{name!r}",
                rows=rows,
                types=" or ".join(known.name for known in _TYPES[column.kind]),
            )
        )
    if (column.kind in ("category", "mask")) != bool(column.categories) or len(set(column.categories)) < len(column.categories):
        raise BadData(say("Column {name}: a category has different categories, a number has none.", name=f"{name!r}"))
    if column.kind == "number":
        faults = int(np.isinf(values).sum())
    elif column.kind == "image":
        faults = 0
    elif column.kind == "mask":
        faults = sum(int((mask >= len(column.categories)).any()) for mask in values)
    else:
        faults = int(((values < MISSING) | (values >= len(column.categories))).sum())
    if faults:
        raise BadData(say("Column {name} has {faults} cells that are infinite or of no category.", name=f"{name!r}", faults=faults))


def pseudonyms(ids: Sequence[str], key: bytes) -> npt.NDArray[np.uint64]:
    """The patients' pseudonyms, in the order of their ids.

    Raises BadInput for a key under 16 bytes: short keys can be tried out, and then ids too.
    """
    if len(key) < 16:
        raise BadInput("The split key has fewer than 16 bytes.")
    known = {text: int.from_bytes(hmac.digest(key, text.encode(), "sha256")[:8], "big") for text in set(ids)}
    return np.fromiter((known[text] for text in ids), _PSEUDONYM, len(ids))


def count_patients(patient: npt.NDArray[np.uint64]) -> int:
    """How many different patients these rows belong to."""
    return len(np.unique(patient))


@final
@dataclass(frozen=True, slots=True)
class Snapshot:
    """A stored table. ``sha256`` is over all its bytes; ``created`` in seconds since 1970 UTC; ``opted_out`` are the rows left out."""

    path: Path
    sha256: str
    rows: int
    patients: int
    created: float
    opted_out: int = 0


def save_table(table: Table, folder: Path, *, clock: Clock, opted_out: int = 0) -> Snapshot:
    """Writes the table as a new folder: complete or not there at all. The same table gives the same bytes.

    The folder holds one ``.npy`` file per column, ``patient.npy``, ``columns.json`` (names, kinds, units, categories) and ``SHA256SUMS``,
    which `sha256sum -c` understands; the snapshot's digest is that of ``SHA256SUMS``. Only the owner may read the files, nobody may write.

    Raises Conflict where the folder exists, OutOfResources where the disk is full.
    """
    if folder.exists():
        raise Conflict(say("{folder} exists; a snapshot is never overwritten.", folder=folder))
    if not folder.parent.is_dir():
        raise NotFound(say("The folder {parent} does not exist.", parent=folder.parent))
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        sha256 = _write(table, draft)
        os.rename(draft, folder)
        _sync_folder(folder.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfResources(say("There is no room for a snapshot in {parent}.", parent=folder.parent)) from None
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise Conflict(say("{folder} exists; a snapshot is never overwritten.", folder=folder)) from None
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Snapshot(folder, sha256, len(table), count_patients(table.patient), clock.now(), opted_out)


def load_table(folder: Path, *, verify: bool, sha256: str | None = None) -> Table:
    """The table of a snapshot, memory-mapped and read-only.

    ``verify`` reads every byte once and compares it with ``SHA256SUMS``. Who can write the folder can change both: give the digest recorded
    when the snapshot was made as ``sha256``, and that is compared too.

    Raises NotFound, Tampered where a byte differs.
    """
    if not (folder / _SUMS).is_file():
        raise NotFound(say("{folder} holds no snapshot.", folder=folder))
    if sha256 is not None and _digest(folder / _SUMS) != sha256:
        raise Tampered(say("The snapshot {folder} is not the one that was recorded.", folder=folder))
    if verify:
        _verify(folder)
    try:
        head = json.loads((folder / _COLUMNS).read_bytes())
        if head["format"] != _FORMAT:
            raise VersionMismatch(say("The snapshot {folder} has another format; make it anew with `aimer2 site dataset refresh`.", folder=folder))
        columns = {
            entry["name"]: Column(entry["kind"], _map(folder / _file(number)), tuple(entry["categories"]), entry["unit"])
            for number, entry in enumerate(head["columns"])
        }
        return Table(columns, _map(folder / _PATIENT))
    except (ValueError, KeyError, TypeError, OSError, BadData):
        raise Tampered(say("The snapshot {folder} cannot be read.", folder=folder)) from None


def _file(number: int) -> str:
    return f"{number:04}.npy"


def _write(table: Table, folder: Path) -> str:
    entries = []
    for number, (name, column) in enumerate(table.columns.items()):
        _write_array(folder / _file(number), column.values)
        entries.append({"name": name, "kind": column.kind, "unit": column.unit, "categories": list(column.categories)})
    _write_array(folder / _PATIENT, table.patient)
    head = {"format": _FORMAT, "rows": len(table), "columns": entries}
    _write_bytes(folder / _COLUMNS, json.dumps(head, indent=1, ensure_ascii=False).encode())
    sums = "".join(f"{_digest(path)}  {path.name}\n" for path in sorted(folder.iterdir()))
    _write_bytes(folder / _SUMS, sums.encode())
    _sync_folder(folder)
    return hashlib.sha256(sums.encode()).hexdigest()


def _write_array(path: Path, values: npt.NDArray[Any]) -> None:
    with open(path, "xb") as file:
        np.save(file, np.ascontiguousarray(values), allow_pickle=False)
        _seal(file)


def _write_bytes(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        _seal(file)


def _seal(file: BinaryIO) -> None:
    file.flush()
    os.fchmod(file.fileno(), 0o400)
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(folder: Path) -> None:
    files = sorted(path for path in folder.iterdir() if path.name != _SUMS)
    try:
        sums = "".join(f"{_digest(path)}  {path.name}\n" for path in files)
    except OSError:
        raise Tampered(say("The snapshot {folder} cannot be read.", folder=folder)) from None
    if sums.encode() != (folder / _SUMS).read_bytes():
        raise Tampered(say("The snapshot {folder} has changed since it was written.", folder=folder))


def _map(path: Path) -> npt.NDArray[Any]:
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


class ColumnDescription(Document):
    """One column in words and counts of patients; ``form`` of images; ``quantiles`` (0, 25, 50, 75, 100 %) only where it stays at the site.

    ``categories``: patients by category; in what may be published, those of too few patients stand together under `RARER`.
    """

    name: str
    kind: Kind
    unit: str | None
    missing: str
    form: str = ""
    categories: Mapping[str, str] = {}
    quantiles: tuple[float, ...] = ()


class DataDescription(Document):
    """What a data set holds. Counts are texts: `35`, or `<10` where fewer (or none) are not told."""

    rows: str
    patients: str
    columns: tuple[ColumnDescription, ...]

    @property
    def digest(self) -> str:
        """SHA-256: what a person who has looked at it names, so that this is published and nothing else."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


RARER = "(rarer)"
"""Of a described column: the patients with any of the categories that are not named, since each has too few of them."""


def describe(table: Table, *, minimum_cell: int = MINIMUM_CELL) -> DataDescription:
    """What may be published of a data set.

    Leaves the site: names, kinds and units of the columns; channels, size and bits of images, which all have in common; names of categories that
    at least ``minimum_cell`` patients have (others may be a patient's own word: a surname, a village); numbers of rows, of patients, of patients
    per named category (of a mask: in which it occurs), with any other category, and with a missing cell, each rounded to 5, below the minimum
    cell (or 5) only `<10`. No value of a patient, no smallest, largest or quantile.
    """

    def told(count: int) -> str:
        rounded = coarse(count, minimum_cell)
        return f"<{least(minimum_cell)}" if rounded is None else str(rounded)

    def categories(column: Column) -> dict[str, str]:
        found = _levels(column, table.patient)
        rare = [have for have in found.values() if count_patients(have) < minimum_cell]
        named = {label: told(count_patients(have)) for label, have in found.items() if count_patients(have) >= minimum_cell}
        return named | ({RARER: told(count_patients(np.concatenate(rare)))} if rare else {})

    patients = count_patients(table.patient)
    # Many rows of a few patients would otherwise give away how few they are.
    rows = told(len(table)) if patients >= least(minimum_cell) else told(0)
    columns = (
        ColumnDescription(
            name=name,
            kind=column.kind,
            unit=column.unit,
            form=column.form,
            missing=told(count_patients(table.patient[column.missing])),
            categories=categories(column),
        )
        for name, column in table.columns.items()
    )
    return DataDescription(rows=rows, patients=told(patients), columns=tuple(columns))


def describe_locally(table: Table) -> DataDescription:
    """The same for the site's own eyes: exact counts and quantiles. Never leaves the site."""
    columns = (
        ColumnDescription(
            name=name,
            kind=column.kind,
            unit=column.unit,
            form=column.form,
            missing=str(count_patients(table.patient[column.missing])),
            categories={label: str(count_patients(have)) for label, have in _levels(column, table.patient).items()},
            quantiles=_quantiles(column),
        )
        for name, column in table.columns.items()
    )
    return DataDescription(rows=str(len(table)), patients=str(count_patients(table.patient)), columns=tuple(columns))


def _levels(column: Column, patient: npt.NDArray[np.uint64]) -> dict[str, npt.NDArray[np.uint64]]:
    """By category, whose rows have it."""
    if column.kind == "mask":
        found = [np.unique(mask) for mask in column.values]
        return {label: patient[[code in codes for codes in found]] for code, label in enumerate(column.categories)}
    return {label: patient[column.values == code] for code, label in enumerate(column.categories)}


def _quantiles(column: Column) -> tuple[float, ...]:
    if column.kind != "number" or column.missing.all():
        return ()
    return tuple(float(value) for value in np.nanquantile(column.values, (0, 0.25, 0.5, 0.75, 1)))
