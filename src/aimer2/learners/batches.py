"""Which rows each optimiser step sees."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from aimer2.core.errors import BadData


def batches(rows: int, *, batch_size: int | None, steps: int, rng: np.random.Generator, at_least: int = 1) -> Iterator[npt.NDArray[np.int64]]:
    """Row numbers for so many steps: shuffled anew at each pass over the data, the last short batch kept.

    Without a batch size, or with one that holds all rows, each step gets the very same array of all rows in order, and nothing is drawn:
    a caller that compares by identity converts them once. ``at_least`` 2: a last batch of one row borrows the first row of its pass, so
    that batch normalisation has two and a pass still has ⌈rows / batch size⌉ steps.

    Raises BadData where there are no rows, or fewer than ``at_least`` in any batch.
    """
    whole = batch_size is None or batch_size >= rows
    if min(rows, rows if batch_size is None else batch_size) < at_least:
        raise BadData(f"A training step needs at least {at_least} rows: give more rows or a larger batch size.")
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
