"""What a site declares for its data set: which column is which, in which units, and what the codes in it mean.

patient = "PAT_ID"
missing = ["?", "NA"]

[columns.chol]
source = "CHOLESTEROL"
unit = "mg/dL"
source_unit = "mmol/L"
factor = 38.67
missing = ["0"]

[columns.sex]
kind = "category"
categories = ["female", "male"]
values = { "0" = "female", "1" = "male" }

[columns.xray]
kind = "image"
source = "FILE"
channels = 1
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from math import isfinite
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, final

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field, ValidationError, model_validator

from aimer2.connectors.table import MISSING, Column, Kind, Table, pseudonyms
from aimer2.connectors.units import conversion
from aimer2.core.errors import BadData, BadInput
from aimer2.core.said import say
from aimer2.core.task import Document

Cells: TypeAlias = npt.NDArray[Any]
"""One raw column: texts as objects (None or an empty text = missing), or float64 (NaN = missing)."""


class ColumnMapping(Document):
    """Where a standard column comes from and what its cells mean."""

    source: str | None = Field(default=None, description="the column's name in the source; none: the standard name")
    kind: Kind = "number"
    unit: str | None = Field(default=None, description="UCUM: what the numbers are in after conversion")
    source_unit: str | None = Field(default=None, description="UCUM: what they are in at the source; none: the same")
    factor: float | None = Field(
        default=None, description="unit = source × factor + offset; none: from the two units, where they are of one quantity"
    )
    offset: float = 0.0
    categories: tuple[str, ...] = Field(default=(), description="all standard categories")
    values: Mapping[str, str] = Field(default_factory=dict, description="value in the source → category; empty: the values are the categories")
    missing: tuple[str, ...] = Field(default=(), description="values that mean missing in this column, besides the data set's")
    channels: Literal[1, 3] | None = Field(default=None, description="of an image: 1 grey, 3 colour; none: as the first one is")
    height: int | None = Field(default=None, ge=1, le=8192, description="of an image or mask: pixels; none: as the first one is")
    width: int | None = Field(default=None, ge=1, le=8192)
    resize: Literal["refuse", "stretch", "pad"] = Field(
        default="refuse", description="of another size: refuse, resample to this size, or resample with the same proportions on black"
    )
    white: int | None = Field(default=None, ge=1, le=65535, description="of an image: the pixel value that is white; none: the largest of its bits")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind in ("image", "mask"):
            return self._pictures()
        if {"channels", "height", "width", "resize", "white"} & self.model_fields_set:
            raise ValueError("`channels`, `height`, `width`, `resize` and `white` are of images")
        if self.kind == "category":
            if not self.categories or len(set(self.categories)) < len(self.categories):
                raise ValueError("a category needs `categories`, each once")
            if self.unit is not None or self.source_unit is not None or self.factor is not None or self.offset:
                raise ValueError("a category has no unit and no conversion")
            if not set(self.values.values()) <= set(self.categories):
                raise ValueError("`values` leads to a category that `categories` does not list")
            if len({_canonical(value) for value in self.values}) < len(self.values):
                raise ValueError("`values` names the same number twice")
        elif self.categories or self.values:
            raise ValueError("a number has no `categories` and no `values`; set kind = 'category'")
        elif self._conversion() is None:
            raise ValueError(f"no conversion from {self.source_unit} to {self.unit} is known; give `factor` (and `offset`)")
        return self

    def _pictures(self) -> Self:
        if self.unit is not None or self.source_unit is not None or self.factor is not None or self.offset or self.missing:
            raise ValueError("an image has no unit, no conversion and no missing values")
        if (self.height is None) != (self.width is None) or (self.resize != "refuse" and self.height is None):
            raise ValueError("give `height` and `width` together; `resize` needs them")
        if self.kind == "image" and (self.categories or self.values):
            raise ValueError("an image has no `categories`; those of pixels are of a mask")
        if self.kind == "mask":
            if self.channels is not None or self.white is not None:
                raise ValueError("a mask has one channel, and codes in place of white")
            if not 2 <= len(set(self.categories)) == len(self.categories) <= 256:
                raise ValueError("a mask needs `categories`, two or more, each once")
            if not set(self.values.values()) <= set(self.categories) or not all(value.isdecimal() for value in self.values):
                raise ValueError('`values` of a mask leads from pixel values to categories: { "0" = "background", "255" = "lesion" }')
        return self

    def _conversion(self) -> tuple[float, float] | None:
        if self.factor is not None or self.offset or self.source_unit is None:
            return (1.0 if self.factor is None else self.factor), self.offset
        return None if self.unit is None else conversion(self.source_unit, self.unit)

    def numbers(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Numbers of the source in the standard unit."""
        found = self._conversion()
        factor, offset = found if found is not None else (1.0, 0.0)
        return values if (factor, offset) == (1.0, 0.0) else values * factor + offset


class DataMapping(Document):
    """A site's declaration of one data set. Without ``patient`` each row is a patient of its own, known by its place in the source."""

    patient: str | None = Field(default=None, description="the column with the patient's id; it is read, but never part of the table")
    columns: Mapping[str, ColumnMapping] = Field(min_length=1, description="by standard name")
    missing: tuple[str, ...] = Field(default=(), description="values that mean missing in every column; an empty cell always does")
    decimal: Literal[".", ","] = Field(default=".", description="the decimal mark of numbers in text")

    def sources(self) -> tuple[str, ...]:
        """The columns that are read of the source, each once."""
        named = [column.source or name for name, column in self.columns.items()]
        return tuple(dict.fromkeys(named if self.patient is None else [self.patient, *named]))


def read_mapping(path: Path) -> DataMapping:
    """The mapping in a TOML file.

    Raises BadInput with every fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise BadInput(say("{path} is not a file in TOML.", path=path)) from None
    return parse_mapping(text, path.name)


def parse_mapping(text: str, called: str) -> DataMapping:
    """The mapping in a text; ``called``: what a fault says of where it is. Raises BadInput with every fault."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError):
        # Not only its own error: a number of thousands of digits is a ValueError, and thousands of brackets end the stack.
        raise BadInput(
            say("{called} is not in TOML.", called=called), remedy="Look for a quotation mark, a bracket or an equals sign that is missing."
        ) from None
    try:
        return DataMapping.model_validate(document)
    except ValidationError as error:
        raise BadInput(say("{called} has faults:\n{error}", called=called, error=faults_of(error))) from None


def faults_of(error: ValidationError) -> str:
    """One line per fault: where it is and what it is."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "\n".join(f"  {'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}" for fault in found)


@final
@dataclass(frozen=True, slots=True)
class Applied:
    """A table, and how many rows were left out of it because their patient has opted out."""

    table: Table
    opted_out: int


Pictures = Callable[[str, ColumnMapping, Cells], Column]
"""Makes a column of images of the cells that say which they are."""


def apply(
    mapping: DataMapping,
    cells: Mapping[str, Cells],
    *,
    split_key: bytes,
    opted_out: frozenset[str] = frozenset(),
    pictures: Pictures | None = None,
) -> Applied:
    """Raw columns, by their name in the source, as a table. Images of patients who have opted out are not looked at.

    Raises BadData naming the column and the number of bad cells, never a cell: a column that is not there, cells that are no number or of
    no category, rows without a patient's id, an opt-out list without a patient column.
    """
    lacking = [name for name in mapping.sources() if name not in cells]
    if lacking:
        raise BadData(say("The source has no column {lacking}.", lacking=", ".join(map(repr, lacking))))
    ids = _ids(mapping, cells, opted_out)
    keep = np.array([text not in opted_out for text in ids], bool)
    columns = {}
    for name, column in mapping.columns.items():
        raw = cells[column.source or name][keep]
        if column.kind not in ("image", "mask"):
            columns[name] = _column(name, column, raw, mapping)
        elif pictures is None:
            raise BadData(say("Column {name}: this source has no images.", name=f"{name!r}"), remedy="Use a source of kind 'images' or 'npz'.")
        else:
            columns[name] = pictures(name, column, texts(raw))
    kept = [text for text, stays in zip(ids, keep, strict=True) if stays]
    return Applied(Table(columns, pseudonyms(kept, split_key)), int((~keep).sum()))


def _ids(mapping: DataMapping, cells: Mapping[str, Cells], opted_out: frozenset[str]) -> list[str]:
    if mapping.patient is None:
        if opted_out:
            raise BadData("The opt-out list cannot be applied: the mapping names no patient column.")
        return [f"row {number}" for number in range(1, len(next(iter(cells.values()))) + 1)]
    ids: list[str] = texts(cells[mapping.patient]).tolist()
    without = ids.count("")
    if without:
        raise BadData(say("Column {patient}: {without} rows have no patient id.", patient=f"{mapping.patient!r}", without=without))
    return ids


def _column(name: str, column: ColumnMapping, raw: Cells, mapping: DataMapping) -> Column:
    markers = {_canonical(marker) for marker in (*mapping.missing, *column.missing)} | {""}
    if column.kind == "category":
        return _category(name, column, raw, markers)
    values = raw if raw.dtype.kind == "f" else _parsed(texts(raw), markers, mapping.decimal)
    numbers = values.astype(np.float64)
    for marker in markers - {""}:
        if isinstance(marker, Decimal):
            numbers[numbers == float(marker)] = np.nan
    # A missing number is NaN by now; a cell that is no number was made infinite.
    bad = int(np.isinf(numbers).sum())
    if bad:
        raise BadData(say("Column {source}: {bad} cells are not numbers.", source=f"{column.source or name!r}", bad=bad), remedy=_REMEDY)
    return Column("number", column.numbers(numbers), unit=column.unit)


_REMEDY = "Look at the distinct values of that column in the source; name its missing-value markers and codes in the mapping."


def _parsed(texts: Cells, markers: set[str | Decimal], decimal: str) -> npt.NDArray[np.float64]:
    missing = _each(texts, lambda text: _canonical(text) in markers)
    plain = texts if decimal == "." else _each(texts, lambda text: text.replace(".", "?").replace(",", "."), object)
    values = pd.to_numeric(pd.Series(plain, dtype=object), errors="coerce").to_numpy(np.float64, copy=True)
    values[np.isnan(values)] = np.inf
    values[missing.astype(bool)] = np.nan
    return values


def _category(name: str, column: ColumnMapping, raw: Cells, markers: set[str | Decimal]) -> Column:
    values = column.values or {category: category for category in column.categories}
    codes = {_canonical(value): column.categories.index(category) for value, category in values.items()}
    codes |= dict.fromkeys(markers, MISSING)
    unknown = len(column.categories)
    found = _each(texts(raw), lambda text: codes.get(_canonical(text), unknown), np.int32)
    bad = int((found == unknown).sum())
    if bad:
        raise BadData(
            say("Column {source}: {bad} cells have a value that the mapping does not list.", source=f"{column.source or name!r}", bad=bad),
            remedy=_REMEDY,
        )
    return Column("category", found, column.categories)


def texts(raw: Cells) -> Cells:
    """The cells as stripped texts; missing is empty, and a whole number has no fraction, as patients' ids and codes are written."""
    if raw.dtype.kind == "f":
        return _each(raw, lambda cell: "" if not isfinite(cell) else str(int(cell)) if cell == int(cell) else repr(float(cell)), object)
    return np.array(["" if cell is None else str(cell).strip() for cell in raw], object)


def _each(cells: Cells, function: Callable[[Any], Any], dtype: Any = bool) -> Cells:
    """The function of each cell, called once per distinct one."""
    items = cells.tolist()
    known = {item: function(item) for item in set(items)}
    return np.array([known[item] for item in items], dtype)


def _canonical(text: str) -> str | Decimal:
    """What a value is compared by: `1`, `1.0` and `01` are one number, all else is its own text."""
    text = text.strip()
    try:
        number = Decimal(text) if "_" not in text else None
    except InvalidOperation:
        return text
    return number if number is not None and number.is_finite() else text
