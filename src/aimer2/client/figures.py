"""Figures with their intervals as people read them: in a terminal, in a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import final

from rich.table import Table
from rich.text import Text

from aimer2.core.task import FigureDocument


def number(value: float) -> str:
    """Three decimals, or three significant digits where that would hide the number."""
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.3g}"


def interval(figure: FigureDocument) -> str:
    """The 95 % interval; empty where there is none."""
    return "" if figure.low is None or figure.high is None else f"{number(figure.low)} to {number(figure.high)}"


def text_of(figure: FigureDocument) -> str:
    """`0.912 (0.881 to 0.940)`, or why there is no number."""
    if figure.value is None:
        return f"undefined: {printable(figure.note)}" if figure.note else "undefined"
    between = interval(figure)
    return f"{number(figure.value)} ({between})" if between else number(figure.value)


def printable(text: str) -> str:
    """Text that came from elsewhere, without characters that steer a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


@final
class Figures(tuple[FigureDocument, ...]):
    """A list of figures that shows itself as a table."""

    __slots__ = ()

    def __new__(cls, figures: Iterable[FigureDocument]) -> Figures:
        return super().__new__(cls, figures)

    def __rich__(self) -> Table:
        table = Table("figure", "value", "95 % interval", "n", "note", box=None, pad_edge=False)
        for figure in self:
            table.add_row(*(Text(printable(cell)) for cell in self._cells(figure)))
        return table

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in ("figure", "value", "95 % interval", "n", "note"))
        rows = ("".join(f"<td>{escape(cell)}</td>" for cell in self._cells(figure)) for figure in self)
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"

    @staticmethod
    def _cells(figure: FigureDocument) -> tuple[str, ...]:
        return figure.name, "undefined" if figure.value is None else number(figure.value), interval(figure), str(figure.n), figure.note


def size_of(count: float) -> str:
    """A number of bytes, for a person."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
