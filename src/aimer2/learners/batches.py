"""Which rows each optimiser step sees, and which early stopping looks at."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from aimer2.core.dataset import Dataset, Samples, rows_of
from aimer2.core.errors import BadData
from aimer2.core.said import say

Rows = npt.NDArray[np.int64]


def batches(rows: int, *, batch_size: int | None, steps: int, rng: np.random.Generator, at_least: int = 1) -> Iterator[Rows]:
    """Row numbers for so many steps: shuffled anew at each pass over the data, the last short batch kept.

    Without a batch size, or with one that holds all rows, each step gets the very same array of all rows in order, and nothing is drawn:
    a caller that compares by identity converts them once. ``at_least`` 2: a last batch of one row borrows the first row of its pass, so
    that batch normalisation has two and a pass still has ⌈rows / batch size⌉ steps.

    Raises BadData where there are no rows, or fewer than ``at_least`` in any batch.
    """
    whole = batch_size is None or batch_size >= rows
    if min(rows, rows if batch_size is None else batch_size) < at_least:
        raise BadData(say("A training step needs at least {at_least} rows: give more rows or a larger batch size.", at_least=at_least))
    if whole:
        yield from [np.arange(rows)] * steps
        return
    assert batch_size is not None
    taken = 0
    while True:
        order = rng.permutation(rows)
        for start in range(0, rows, batch_size):
            if taken == steps:
                return
            taken += 1
            batch = order[start : start + batch_size]
            yield batch if len(batch) >= at_least else np.append(batch, order[0])


def in_parts(rows: Rows, parts: int, *, at_least: int = 1) -> list[Rows]:
    """A batch in so many nearly equal parts, fewer where a part would have less than ``at_least`` rows."""
    return np.array_split(rows, max(1, min(parts, len(rows) // at_least)))


def validation(patients: npt.NDArray[np.uint64], share: float) -> npt.NDArray[np.bool_]:
    """Which rows are looked at for early stopping and never trained on: those of about this share of the patients.

    A patient's side hangs on the pseudonym alone, and not on what decides about the held-out patients: FNV-1a (Fowler, Noll, Vo)
    over its bytes, of which the upper half is taken.
    """
    mixed = np.full(len(patients), 0xCBF29CE484222325, np.uint64)
    for place in range(0, 64, 8):
        mixed = (mixed ^ (patients >> np.uint64(place) & np.uint64(0xFF))) * np.uint64(0x100000001B3)
    return np.asarray((mixed >> np.uint64(32)) < np.uint64(int(share * 2**32)))


def set_aside(data: Dataset, share: float) -> tuple[Samples, Samples]:
    """The rows to train on and those of the validation part, by patient; where the patients are not told, each row is one.

    Raises BadData where either is empty.
    """
    known = data.patients if isinstance(data, Samples) else None
    patients = np.arange(len(data), dtype=np.uint64) if known is None else known
    judged = validation(patients, share)
    if judged.all() or not judged.any():
        raise BadData("There are too few patients to set a validation part aside for early stopping.")
    return rows_of(data, np.flatnonzero(~judged)), rows_of(data, np.flatnonzero(judged))
