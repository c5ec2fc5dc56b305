"""An answer to a statistical question as a typed table: what a study's record holds, what is printed and what becomes a data frame."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import TypeAlias

from pydantic import Field

from aimer2.core.task import Document

Cell: TypeAlias = str | int | float | None
"""None: there is no such number, and a note says why."""


class Table(Document):
    """Rows under named columns, facts about the whole, and notes that a reader must know before using the numbers."""

    analysis: str
    method: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    facts: Mapping[str, Cell] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()


def number(value: float) -> float | None:
    """A number for a cell; None where it is not finite."""
    return float(value) if isfinite(value) else None
