"""The picture of an answer, as a notebook shows it and as a file keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from aimer2.charts.chart import Chart
from aimer2.charts.files import write
from aimer2.charts.svg import svg


@final
@dataclass(frozen=True, slots=True)
class Picture:
    """``chart``: its definition as data."""

    chart: Chart

    def svg(self) -> str:
        return svg(self.chart)

    def save(self, path: str | Path) -> None:
        """As SVG, PNG (extra ``figures``) or JSON, by the name's ending. Raises BadInput for another."""
        write(self.chart, Path(path))

    def _repr_svg_(self) -> str:
        return self.svg()


def numbered(path: Path, count: int) -> list[Path]:
    """Names of so many files: the path itself, then with ``-2``, ``-3``, … before its ending."""
    return [path, *(path.with_stem(f"{path.stem}-{number}") for number in range(2, count + 1))][:count]
