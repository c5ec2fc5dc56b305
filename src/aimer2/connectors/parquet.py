"""Parquet files, alone or a folder of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aimer2.connectors.mapping import Cells
from aimer2.core.errors import BadData, NotFound
from aimer2.core.said import say
from aimer2.core.task import Document


class Parquet(Document):
    """A Parquet file, or a folder of files of one form. Floating numbers are taken as they are, all else as text."""

    path: Path

    def cells(self, columns: Sequence[str]) -> Mapping[str, Cells]:
        if not self.path.exists():
            raise NotFound(say("There is no file {path}.", path=self.path))
        try:
            present = set(pq.ParquetDataset(self.path).schema.names)
            table = pq.read_table(self.path, columns=[name for name in columns if name in present])
            return {name: _cells(table[name]) for name in table.column_names}
        except (pa.ArrowException, OSError):
            # What Arrow says may quote a cell.
            raise BadData(say("{path} cannot be read as Parquet with columns of numbers, texts, dates or truth values.", path=self.path)) from None


def _cells(column: pa.ChunkedArray) -> Cells:
    if pa.types.is_floating(column.type):
        return np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)
    return np.array(pc.cast(column, pa.string()).to_pylist(), object)
