"""Rows ready for a learner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
import numpy.typing as npt

from aimer2.core.errors import BadData


class Dataset(Protocol):
    """What a learner trains on: anything with a length, its targets, and rows by index."""

    def __len__(self) -> int: ...
    @property
    def targets(self) -> npt.NDArray[Any]: ...
    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one row's features: ``(d,)`` for a table, ``(channels, height, width)`` for images."""
        ...

    def batch(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Features ``(k, *feature_shape)`` and targets ``(k,)`` of the given rows."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Samples:
    """A data set in memory: features ``(n, …)``, targets ``(n,)``."""

    features: npt.NDArray[Any]
    targets: npt.NDArray[Any]

    def __post_init__(self) -> None:
        if len(self.features) != len(self.targets):
            raise BadData(f"{len(self.features)} rows of features, but {len(self.targets)} targets.")

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return tuple(self.features.shape[1:])

    def batch(self, rows: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        return self.features[rows], self.targets[rows]
