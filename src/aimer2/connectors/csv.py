"""Delimited text: what every clinical system can export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from pydantic import Field

from aimer2.connectors.mapping import Cells
from aimer2.core.errors import BadData, NotFound
from aimer2.core.said import say
from aimer2.core.task import Document


class Csv(Document):
    """A file of delimited text. Every cell is read as text; the mapping says what it means."""

    path: Path
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    encoding: str = Field(default="utf-8-sig", description="the default reads UTF-8 with and without a byte-order mark")
    names: tuple[str, ...] | None = Field(default=None, description="the columns in their order, where the file has no header line")

    def cells(self, columns: Sequence[str]) -> Mapping[str, Cells]:
        frame = self._frame()
        if self.names is None:
            names, frame = [str(name).strip() for name in frame.iloc[0]], frame.iloc[1:]
        else:
            names = list(self.names)
        if len(names) != frame.shape[1]:
            raise BadData(say("{path} has {shape} columns, but {count} names are given.", path=self.path, shape=frame.shape[1], count=len(names)))
        double = [name for name in columns if names.count(name) > 1]
        if double:
            raise BadData(say("{path} has more than one column {double}.", path=self.path, double=", ".join(map(repr, double))))
        return {name: frame.iloc[:, names.index(name)].to_numpy(object) for name in columns if name in names}

    def _frame(self) -> pd.DataFrame:
        try:
            return pd.read_csv(self.path, sep=self.delimiter, encoding=self.encoding, header=None, dtype=str, na_filter=False)
        except FileNotFoundError:
            raise NotFound(say("There is no file {path}.", path=self.path)) from None
        except pd.errors.EmptyDataError:
            raise BadData(say("{path} is empty.", path=self.path)) from None
        except (pd.errors.ParserError, UnicodeError, LookupError):
            # What pandas says may quote the line.
            raise BadData(
                say(
                    "{path} cannot be read as {encoding} text delimited by {delimiter}.",
                    path=self.path,
                    encoding=self.encoding,
                    delimiter=f"{self.delimiter!r}",
                ),
                remedy="Correct the delimiter and the encoding, or the line that has more fields than the first.",
            ) from None
