"""A site's data set: a source, what its columns mean, and who has opted out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol, final

from aimer2.connectors.mapping import Applied, Cells, DataMapping, apply
from aimer2.connectors.pictures import HasPictures, gather
from aimer2.connectors.table import DataDescription, Snapshot, Table, describe, save_table
from aimer2.core.clock import Clock
from aimer2.core.errors import BadInput
from aimer2.core.said import say


class Source(Protocol):
    """One kind of clinical source."""

    def cells(self, columns: Sequence[str]) -> Mapping[str, Cells]:
        """Those of the named columns that it has, raw.

        Raises NotFound where the source is not there, BadData where it cannot be read; neither quotes a cell.
        """
        ...


@final
@dataclass(frozen=True, slots=True)
class Connector:
    """Reads a source into a table. Runs at the site, trusted; patients who have opted out are left out before anything else is made of them."""

    source: Source
    mapping: DataMapping
    split_key: bytes = field(repr=False)
    opted_out: frozenset[str] = field(default=frozenset(), repr=False)

    def read(self) -> Table:
        return self._read().table

    def describe(self) -> DataDescription:
        """What may be published of it (`table.describe`)."""
        return describe(self.read())

    def refresh(self, to: Path, *, clock: Clock) -> Snapshot:
        """Writes the data as they are now into a new snapshot; it says how many rows were left out."""
        applied = self._read(to.parent)
        return save_table(applied.table, to, clock=clock, opted_out=applied.opted_out)

    def _read(self, scratch: Path | None = None) -> Applied:
        cells = self.source.cells(self.mapping.sources())
        pictures = partial(gather, source=self.source, scratch=scratch) if isinstance(self.source, HasPictures) else None
        return apply(self.mapping, cells, split_key=self.split_key, opted_out=self.opted_out, pictures=pictures)


def read_opt_out(path: Path) -> frozenset[str]:
    """The patients' ids in a text file, one a line; empty lines and those that begin with `#` don't count.

    Raises BadInput where it cannot be read: an opt-out list that is not there must stop the refresh, never be taken for an empty one.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise BadInput(say("The opt-out list {path} cannot be read.", path=path)) from None
    return frozenset(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
