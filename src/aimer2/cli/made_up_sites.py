"""Files as the sites of a simulation: one file each, or one file divided among made-up sites."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Literal, final

import numpy as np
import numpy.typing as npt
import pandas as pd

from aimer2.connectors.catalogue import kind_of, make_connector
from aimer2.connectors.connector import Connector
from aimer2.connectors.mapping import ColumnMapping, DataMapping, read_mapping
from aimer2.connectors.table import Kind, Table
from aimer2.core.errors import BadData, BadInput
from aimer2.core.random import stream
from aimer2.core.study import Study
from aimer2.core.task import SITE_ID
from aimer2.study import partition

_WHOLE = re.compile(r"^(-?(?:0|[1-9][0-9]*))\.0+$")


@final
@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read: by a mapping, or with the columns named and meant as the study says."""

    study: Study
    mapping: Path | None
    patient: str | None

    def connector(self, path: Path, site: str) -> Connector:
        kind = kind_of(path, images=self.study.cohort.image is not None)
        return make_connector(kind, {"path": path}, self._declared(), split_key=hashlib.sha256(site.encode()).digest())

    def _declared(self) -> DataMapping:
        if self.mapping is None:
            return DataMapping(patient=self.patient, columns=_columns(self.study))
        found = read_mapping(self.mapping)
        return found if self.patient is None else found.model_copy(update={"patient": self.patient})


@final
@dataclass(frozen=True, slots=True)
class Division:
    """How one file becomes several sites."""

    kind: Literal["by", "iid", "dirichlet", "quantity"]
    column: str = ""
    count: int = 0
    alpha: float = 0.0

    def __post_init__(self) -> None:
        if self.kind != "by" and self.count < 1:
            raise BadInput("There must be at least one site.")
        if self.kind in ("dirichlet", "quantity") and not (self.alpha > 0 and isfinite(self.alpha)):
            raise BadInput("ALPHA is a number above 0.")


def read_sites(reading: Reading, files: Mapping[str, Path]) -> dict[str, Table]:
    """Raises NotFound, BadData naming the column, never a cell."""
    return {site: reading.connector(path, site).read() for site, path in files.items()}


def divide(reading: Reading, path: Path, division: Division, seed: int) -> dict[str, Table]:
    """All rows of a patient go to one site, except where a column says otherwise. Raises NotFound, BadData, BadInput."""
    connector = reading.connector(path, "simulation")
    table = connector.read()
    if division.kind == "by":
        return {site: _take(table, rows) for site, rows in _by_column(connector, division.column).items()}
    _, first, patient = np.unique(table.patient, return_index=True, return_inverse=True)
    target = reading.study.cohort.target
    if lacking := [column.name for column in target.columns if column.name not in table.columns]:
        raise BadData(f"There is no column {lacking[0]!r}, the study's target.")
    if division.kind == "dirichlet" and target.kind not in ("binary", "multiclass"):
        raise BadInput(f"--dirichlet divides by classes, which a {target.kind} target has not.")
    label = target.columns[0].name
    patients = pd.DataFrame({"number": np.arange(len(first)), "label": table.columns[label].values[first]})
    minimum = reading.study.cohort.minimum_patients
    if division.count * minimum > len(patients):
        told = f"{len(patients)} patients are too few for {division.count} sites: the study asks for {minimum} at each."
        raise BadInput(told, remedy="Take fewer sites, or lower the study's minimum_patients.")
    parts = _parts(patients, division, stream(seed, "partition"), minimum)
    return {site: _take(table, np.flatnonzero(np.isin(patient, part["number"].to_numpy()))) for site, part in parts.items()}


def _parts(patients: pd.DataFrame, division: Division, rng: np.random.Generator, minimum: int) -> Mapping[str, pd.DataFrame]:
    names = [f"site-{number:0{len(str(division.count))}}" for number in range(1, division.count + 1)]
    if division.kind == "iid":
        return partition.iid(patients, names, rng=rng)
    if division.kind == "dirichlet":
        return partition.dirichlet(patients, names, alpha=division.alpha, rng=rng, label="label", minimum=minimum)
    return partition.quantity(patients, names, alpha=division.alpha, rng=rng, minimum=minimum)


def _by_column(connector: Connector, column: str) -> dict[str, npt.NDArray[np.int64]]:
    cells = connector.source.cells([column])
    if column not in cells:
        raise BadData(f"There is no column {column!r}.")
    texts = _whole_numbers_alike(pd.Series(cells[column]).astype(object).replace("", None))
    frame = pd.DataFrame({"value": texts, "row": np.arange(len(texts))})
    sites: dict[str, npt.NDArray[np.int64]] = {}
    for value, part in partition.by_column(frame, "value").items():
        name = re.sub("[^a-z0-9]+", "-", value.lower()).strip("-")
        if not SITE_ID.fullmatch(name) or name in sites:
            raise BadData(f"The values of column {column!r} cannot name sites: they need different letters or digits.")
        sites[name] = part["row"].to_numpy(np.int64)
    return sites


def _whole_numbers_alike(texts: pd.Series) -> pd.Series:
    """``1`` and ``1.0`` are one hospital: exports of one number differ from file to file. ``5E1``, ``50``, ``007`` and ``7`` are four."""
    return texts.map(lambda cell: _WHOLE.sub(r"\1", str(cell)), na_action="ignore")


def _take(table: Table, rows: npt.NDArray[np.int64]) -> Table:
    return Table({name: column.taken(rows) for name, column in table.columns.items()}, table.patient[rows])


def _columns(study: Study) -> dict[str, ColumnMapping]:
    columns = {
        feature.name: ColumnMapping(kind="category", categories=feature.categories)
        if feature.kind == "category"
        else ColumnMapping(kind="number", unit=feature.unit)
        for feature in study.columns
    }
    if study.cohort.image is not None:
        columns[study.cohort.image.name] = ColumnMapping(kind="image", channels=study.cohort.image.channels)
    for target in study.cohort.target.columns:
        kind: Kind = "mask" if target.kind == "segmentation" else "category" if target.categories else "number"
        columns[target.name] = ColumnMapping(kind=kind, categories=target.categories, unit=target.unit)
    return columns
