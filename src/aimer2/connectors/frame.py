"""A pandas frame as a table: for studies simulated in one process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from aimer2.connectors.table import Column, Table, pseudonyms
from aimer2.core.errors import BadData
from aimer2.core.said import say


def from_frame(frame: pd.DataFrame, *, split_key: bytes, patient: str | None = None, units: Mapping[str, str] | None = None) -> Table:
    """Numbers become numbers, truth values the categories `false` and `true`, pandas' categoricals theirs; ``units`` by column, in UCUM.

    Without ``patient`` each row is a patient of its own, known by its place.

    Raises BadData for texts that were not made a categorical, and where a row has no patient id.
    """
    rows = len(frame)
    if patient is None:
        ids = [f"row {number}" for number in range(1, rows + 1)]
    else:
        without = int(frame[patient].isna().sum())
        if without:
            raise BadData(say("Column {patient}: {without} rows have no patient id.", patient=f"{patient!r}", without=without))
        ids = frame[patient].astype(str).tolist()
    columns = {str(name): _column(str(name), frame[name], (units or {}).get(str(name))) for name in frame.columns if name != patient}
    return Table(columns, pseudonyms(ids, split_key))


def _column(name: str, series: pd.Series[Any], unit: str | None) -> Column:
    if isinstance(series.dtype, pd.CategoricalDtype):
        return Column("category", series.cat.codes.to_numpy(np.int32), tuple(map(str, series.cat.categories)))
    if pd.api.types.is_bool_dtype(series.dtype):
        codes = series.astype("Int32").fillna(-1).to_numpy(np.int32)
        return Column("category", codes, ("false", "true"))
    if pd.api.types.is_numeric_dtype(series.dtype) and not pd.api.types.is_complex_dtype(series.dtype):
        return Column("number", series.to_numpy(np.float64, na_value=np.nan), unit=unit)
    raise BadData(
        say("Column {name} holds neither numbers nor categories.", name=f"{name!r}"),
        remedy=say("Declare them: frame[{name}].astype('category').", name=f"{name!r}"),
    )
