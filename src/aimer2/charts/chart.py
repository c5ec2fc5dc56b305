"""A chart as pure data: axes, series with their marks, and what stands below and beside. No writer is named here, and none is needed to store one."""

from __future__ import annotations

from typing import Literal, Self, TypeAlias

from pydantic import Field, model_validator

from aimer2.core.task import Document

Mark: TypeAlias = Literal["line", "step", "bars", "points", "intervals"]
Places: TypeAlias = tuple[float | None, ...]
"""None: there is no such number, and the mark has a gap."""


class Axis(Document):
    """``scale`` names: the places 0, 1, 2, … bear ``names``, on a vertical axis from the top. ``low``, ``high``: where it ends at least."""

    title: str = ""
    scale: Literal["linear", "log", "names"] = "linear"
    names: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None


class Series(Document):
    """Marks of one kind in one colour.

    ``line`` joins its points, ``step`` is constant from each point to the next; with ``low`` and ``high`` a band lies about either. ``bars`` stand on
    0, from ``x`` to ``to``, or about ``x`` where there is no ``to``. ``points`` have whiskers to ``low`` and ``high`` along y, ``intervals`` along x.
    """

    name: str = ""
    mark: Mark
    x: Places
    y: Places
    to: Places = ()
    low: Places = ()
    high: Places = ()

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if any(len(part) not in (0, len(self.x)) for part in (self.to, self.low, self.high)) or len(self.y) != len(self.x):
            raise ValueError("the parts of a series have one length")
        if bool(self.low) != bool(self.high) or (self.mark == "intervals" and not self.low):
            raise ValueError("`low` and `high` stand together, and intervals need both")
        return self


class Rule(Document):
    """A line of reference across the chart, at a place of one axis."""

    axis: Literal["x", "y"]
    at: float


class CountsRow(Document):
    """Numbers in one row; None: not told."""

    name: str
    values: tuple[int | None, ...]


class Counts(Document):
    """Numbers below the horizontal axis, as how many are at risk: rows at the places ``at``."""

    title: str
    at: tuple[float, ...]
    rows: tuple[CountsRow, ...]

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if any(len(row.values) != len(self.at) for row in self.rows):
            raise ValueError("each row has a number for each place")
        return self


class Chart(Document):
    """One picture. ``description``: for those who do not see it. ``beside``: a text right of each name of a vertical axis of names."""

    title: str
    description: str = ""
    x: Axis = Field(default_factory=Axis)
    y: Axis = Field(default_factory=Axis)
    series: tuple[Series, ...] = Field(min_length=1)
    rules: tuple[Rule, ...] = ()
    counts: Counts | None = None
    beside: tuple[str, ...] = ()
