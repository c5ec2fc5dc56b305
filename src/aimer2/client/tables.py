"""Answers to statistical questions as people read them: in a terminal, in a notebook, as data frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, final

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from aimer2.client.figures import printable
from aimer2.core.errors import NotFound
from aimer2.core.table import Cell, Table

_FACTS_IN_A_ROW = 2
_WIDTH = 160


def shown(cell: Cell) -> str:
    """Six significant digits, as statisticians' programs print; nothing where there is no number."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        return "0" if cell == 0 else f"{cell:.6g}"
    return printable(str(cell))


def show(table: Table) -> Group:
    """Title, facts side by side, rows, notes."""
    parts: list[RenderableType] = [Text(printable(f"{table.analysis}: {table.title} ({table.method})"), "bold")]
    if table.facts:
        facts = Grid.grid(padding=(0, 2))
        pairs = [(printable(name.replace("_", " ")), shown(value)) for name, value in table.facts.items()]
        half = -(-len(pairs) // _FACTS_IN_A_ROW)
        for place in range(half):
            facts.add_row(*(cell for pair in pairs[place::half] for cell in pair))
        parts.append(Padding(facts, (0, 0, 1, 0)))
    grid = Grid(box=None, pad_edge=False)
    for place, name in enumerate(table.columns):
        words = any(isinstance(row[place], str) for row in table.rows)
        grid.add_column(printable(name.replace("_", " ")), justify="left" if words else "right", no_wrap=not words)
    for row in table.rows:
        grid.add_row(*(Text(shown(cell)) for cell in row))
    parts.append(grid)
    parts += [Text(f"Note: {printable(note)}") for note in table.notes]
    return Group(*parts)


def frame(table: Table) -> pd.DataFrame:
    """One row per row, tidy; no number is NaN."""
    return pd.DataFrame([list(row) for row in table.rows], columns=list(table.columns))


@final
class Tables(tuple[Table, ...]):
    """The answers of a study, which show themselves."""

    __slots__ = ()

    def __new__(cls, tables: Iterable[Table]) -> Tables:
        return super().__new__(cls, tables)

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Tables:
        """Those of a result document; none of a study that trains a model."""
        return cls(Table(**document) for document in result.get("tables", ()))

    def table(self, title: str | None = None, *, analysis: str | None = None) -> Table:
        """The first of this title and analysis. Raises NotFound."""
        for one in self:
            if title in (None, one.title) and analysis in (None, one.analysis):
                return one
        raise NotFound(f"There is no table {title!r}; there are: {', '.join(one.title for one in self)}.")

    def frame(self, title: str | None = None, *, analysis: str | None = None) -> pd.DataFrame:
        """That table as a data frame. Raises NotFound."""
        return frame(self.table(title, analysis=analysis))

    def __rich__(self) -> Group:
        return Group(*_apart([show(one) for one in self]))

    def __str__(self) -> str:
        console = Console(width=_WIDTH, color_system=None)
        with console.capture() as captured:
            console.print(self.__rich__())
        return captured.get().rstrip()

    def _repr_html_(self) -> str:
        return "".join(_html(one) for one in self)


def _apart(parts: Sequence[RenderableType]) -> list[RenderableType]:
    return [piece for part in parts for piece in (part, Text(""))][:-1]


def _html(table: Table) -> str:
    facts = "; ".join(f"{escape(name)} = {escape(shown(value))}" for name, value in table.facts.items())
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(shown(cell))}</td>" for cell in row) + "</tr>" for row in table.rows)
    notes = "".join(f"<p>{escape(note)}</p>" for note in table.notes)
    return f"<h4>{escape(table.analysis)}: {escape(table.title)}</h4><p>{facts}</p><table><tr>{head}</tr>{rows}</table>{notes}"
