"""Answers to statistical questions as people read them: in a terminal, in a notebook, as data frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, final

import pandas as pd
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from aimer2.charts.answers import charts, has_picture
from aimer2.client.figures import printable
from aimer2.client.pictures import Picture
from aimer2.core.errors import NotFound
from aimer2.core.table import Cell, Table

_FACTS_IN_A_ROW = 2
_WIDTH = 160


def shown(cell: Cell) -> str:
    """Five significant digits; nothing where there is no number."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        return "0" if cell == 0 else f"{cell:.5g}"
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
    parts.append(_Rows(table))
    parts += [Text(f"Note: {printable(note)}") for note in table.notes]
    return Group(*parts)


@final
class _Rows:
    """A table's rows; where the screen is too narrow for all columns, one block under the other, each beginning with what names the rows."""

    def __init__(self, table: Table) -> None:
        kept = [place for place in range(len(table.columns)) if not table.rows or any(row[place] != "" for row in table.rows)]
        self._head = [printable(table.columns[place].replace("_", " ")) for place in kept]
        self._cells = [[shown(row[place]) for place in kept] for row in table.rows]
        words = [any(isinstance(row[place], str) for row in table.rows) for place in kept]
        self._named = next((place for place, is_word in enumerate(words) if not is_word), len(words))
        self._words = words
        self._widths = [max(map(len, (name, *(line[place] for line in self._cells)))) for place, name in enumerate(self._head)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for number, block in enumerate(self._blocks(options.max_width)):
            if number:
                yield Text("")
            grid = Grid(box=None, pad_edge=False)
            for place in (*range(self._named), *block):
                grid.add_column(self._head[place], justify="left" if self._words[place] else "right", no_wrap=not self._words[place])
            for line in self._cells:
                grid.add_row(*(Text(line[place]) for place in (*range(self._named), *block)))
            yield grid

    def _blocks(self, width: int) -> list[list[int]]:
        room = width - sum(self._widths[place] + 2 for place in range(self._named))
        blocks: list[list[int]] = [[]]
        for place in range(self._named, len(self._head)):
            if blocks[-1] and sum(self._widths[one] + 2 for one in (*blocks[-1], place)) > max(room, 1):
                blocks.append([])
            blocks[-1].append(place)
        return blocks


def frame(table: Table) -> pd.DataFrame:
    """One row per row, tidy; no number is NaN."""
    return pd.DataFrame([list(row) for row in table.rows], columns=list(table.columns))


def _named(table: Table) -> pd.DataFrame:
    rows = [[table.analysis, *row] for row in table.rows]
    return pd.DataFrame(rows, columns=["analysis", *table.columns])


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

    def frames(self) -> dict[str, pd.DataFrame]:
        """All answers as tidy frames by their title, the analysis being the first column; several of one title stand below each other, and what a
        table has no column for is missing there."""
        titles = dict.fromkeys(one.title for one in self)
        return {title: pd.concat([_named(one) for one in self if one.title == title], ignore_index=True) for title in titles}

    def plots(self) -> tuple[Picture, ...]:
        """A picture of each answer that has one."""
        return tuple(map(Picture, charts(self)))

    def plot(self, title: str | None = None, *, analysis: str | None = None) -> Picture:
        """The picture of the first table of this title and analysis that has one. Raises NotFound."""
        for table in self:
            if title in (None, table.title) and analysis in (None, table.analysis) and has_picture(table):
                related = (one for one in self if one.analysis == table.analysis and (one is table or not has_picture(one)))
                for chart in charts(related):
                    return Picture(chart)
        raise NotFound(f"None of these has a picture: {', '.join(one.title for one in self if title in (None, one.title))}.")

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
