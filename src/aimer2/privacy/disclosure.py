"""What may be told of counts: the one rule by which a site rounds, suppresses and compares before a number of patients leaves it.

Counts are of patients, never of rows. A suppressed count is None, never 0: "fewer than ten" must not read as "none", and a count of none is
suppressed too, for it says of everybody that they are not among them. (Hundepool et al. 2012, Statistical Disclosure Control, chapters 4, 5.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from aimer2.core.errors import BadInput

MINIMUM_CELL = 10
"""Counts of fewer patients are not told outside the site."""

ROUNDING = 5
"""Counts are told to the nearest multiple of this."""

Counts = npt.NDArray[np.int64]
Cells = npt.NDArray[np.bool_]


def least(minimum_cell: int = MINIMUM_CELL) -> int:
    """Counts of fewer patients are not told: at a smaller minimum cell than the rounding, one or two patients would be told as none."""
    return max(minimum_cell, ROUNDING)


def coarse(count: int, minimum_cell: int = MINIMUM_CELL) -> int | None:
    """A count of patients as it may be told outside the site: to the nearest 5; None where there are fewer than `least`, zero too."""
    return None if count < least(minimum_cell) else ROUNDING * round(count / ROUNDING)


def too_close(first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64], minimum_cell: int = MINIMUM_CELL) -> bool:
    """Whether the counts of both groups must not be told, because their difference would tell of fewer patients than the minimum cell.

    Groups are patients' pseudonyms, in any order and number. They may be told together where the patients of one who are not in the other are
    none, or enough; this holds in both directions.
    """
    alone = (len(np.setdiff1d(first, second)), len(np.setdiff1d(second, first)))
    return any(0 < patients < minimum_cell for patients in alone)


@final
@dataclass(frozen=True, slots=True)
class ToldTable:
    """A table of counts as it may be told, with margins: ``rows``, ``columns`` and ``total`` are those of the true counts, each rounded by
    itself (so they need not add up). None is suppressed."""

    cells: tuple[tuple[int | None, ...], ...]
    rows: tuple[int | None, ...]
    columns: tuple[int | None, ...]
    total: int | None


def tell_table(counts: npt.NDArray[np.integer], minimum_cell: int = MINIMUM_CELL) -> ToldTable:
    """A table of counts ``(rows, columns)`` in which each patient stands in one cell, with its margins, safe against subtraction.

    Besides the small counts so many more are suppressed (in the smallest cells that do) that in every row and column, margins included, the
    suppressed ones are at least two and hold together as many patients as a count that is told, and that no suppressed count follows from the
    told ones (Gusfield 1988: it lies on a cycle of suppressed cells). An attacker who knew the counts before rounding would still only know ranges.

    Raises BadInput unless the counts are a table of whole numbers from 0 on.
    """
    if counts.ndim != 2 or not counts.size or counts.dtype.kind not in "iu" or int(counts.min()) < 0:
        raise BadInput("The counts are not a table of whole numbers from 0 on.")
    whole = _with_margins(counts.astype(np.int64))
    hidden = _suppressed(whole, least(minimum_cell))
    told = [
        [None if secret else coarse(int(count), minimum_cell) for count, secret in zip(line, secrets, strict=True)]
        for line, secrets in zip(whole, hidden, strict=True)
    ]
    return ToldTable(
        cells=tuple(tuple(line[:-1]) for line in told[:-1]),
        rows=tuple(line[-1] for line in told[:-1]),
        columns=tuple(told[-1][:-1]),
        total=told[-1][-1],
    )


def _with_margins(counts: Counts) -> Counts:
    wide = np.column_stack([counts, counts.sum(axis=1)])
    return np.vstack([wide, wide.sum(axis=0)])


def _suppressed(whole: Counts, minimum_cell: int) -> Cells:
    """Which counts of a table with margins are not told; at most all of them."""
    hidden = whole < minimum_cell
    while True:
        weak = _weak_line(whole, hidden, minimum_cell)
        if weak is None:
            return hidden
        line, secrets = whole[weak], hidden[weak]
        smallest = np.argmin(np.where(secrets, np.iinfo(np.int64).max, line))
        secrets[smallest] = True


def _weak_line(whole: Counts, hidden: Cells, minimum_cell: int) -> tuple[slice | int, slice | int] | None:
    """A row or column that gives a suppressed count away and still has one to suppress; first those that do so by themselves."""
    height, width = whole.shape
    lines: list[tuple[slice | int, slice | int]] = [(row, slice(None)) for row in range(height)]
    lines += [(slice(None), column) for column in range(width)]
    lines = [line for line in lines if hidden[line].any() and not hidden[line].all()]
    for line in lines:
        secrets = hidden[line]
        if secrets.sum() < 2 or whole[line][secrets].sum() < minimum_cell:
            return line
    given_away = _determined(hidden)
    return next((line for line in lines if given_away[line].any()), None)


def _determined(hidden: Cells) -> Cells:
    """Which suppressed cells follow from the rest by the sums alone: those without a part in any solution of all sums being zero."""
    rows, columns = np.nonzero(hidden)
    found = np.zeros_like(hidden)
    if not len(rows):
        return found
    height, width = hidden.shape
    # A margin is minus the sum of its line, so that every line, the margins' own too, adds up to zero.
    sums = np.zeros((height + width, len(rows)))
    sign = np.where((rows == height - 1) ^ (columns == width - 1), -1.0, 1.0)
    sums[rows, np.arange(len(rows))] = sign
    sums[height + columns, np.arange(len(rows))] = sign
    _, values, bases = np.linalg.svd(sums)
    free = bases[int((values > 1e-9).sum()) :]
    found[rows, columns] = np.abs(free).max(axis=0, initial=0.0) < 1e-9
    return found
