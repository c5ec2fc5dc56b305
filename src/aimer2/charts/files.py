"""A chart as a file: SVG, PNG or its definition as JSON, by the name's ending."""

from __future__ import annotations

import importlib
from pathlib import Path

from aimer2.charts.chart import Chart
from aimer2.charts.svg import svg
from aimer2.core.errors import BadInput
from aimer2.core.said import say

ENDINGS = (".svg", ".png", ".json")


def write(chart: Chart, path: Path) -> None:
    """Raises BadInput for another ending, and for PNG where matplotlib is missing."""
    if path.suffix == ".svg":
        path.write_text(f'<?xml version="1.0" encoding="UTF-8"?>\n{svg(chart)}\n', encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(chart.model_dump_json(indent=1) + "\n", encoding="utf-8")
    elif path.suffix == ".png":
        path.write_bytes(_png(chart))
    else:
        raise BadInput(say("{name} is no file of a picture.", name=path.name), remedy=say("End the name in {endings}.", endings=", ".join(ENDINGS)))


def _png(chart: Chart) -> bytes:
    try:
        module = importlib.import_module("aimer2.charts.png")
    except ModuleNotFoundError:
        raise BadInput("A PNG picture needs matplotlib.", remedy="Install the extra: pip install 'aimer2[figures]'; or write .svg.") from None
    made: bytes = module.png(chart)
    return made
