"""What a virtual site does, the same in every simulator: a pass of plain SGD of a small network over its 20 rows. Needs numpy and torch alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ROWS, FEATURES, HIDDEN, BATCH, RATE = 20, 30, 32, 10, 0.1


def rows(site: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    rng = np.random.default_rng(site)
    features = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    return features, (features[:, 0] + rng.normal(size=ROWS) > 0).astype(np.int64)
