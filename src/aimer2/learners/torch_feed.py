"""Rows of a data set as tensors on the device."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aimer2.core import tree
from aimer2.core.dataset import Dataset, Samples

RESIDENT_BYTES = 1 << 30
"""Data in memory up to this size lie on the GPU through a fit; larger ones are moved batch by batch."""


@final
class Feed:
    """The batches of one data set; rows in memory are converted once, those in a file as they are needed."""

    def __init__(self, data: Dataset, features: torch.dtype, targets: torch.dtype, device: torch.device) -> None:
        self.data = data
        self._types = (features, targets)
        self._device = device
        self._whole = None
        if isinstance(data, Samples) and data.in_memory:
            self._whole = self._converted(np.asarray(data.features), np.asarray(data.targets))
        if self._whole is not None and self._whole[0].nbytes <= RESIDENT_BYTES:
            self._whole = self._whole[0].to(device), self._whole[1].to(device)
        self._held: tuple[npt.NDArray[np.int64], tuple[Tensor, Tensor]] | None = None

    def __call__(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Features and targets; the same array of row numbers again costs nothing."""
        if self._held is None or self._held[0] is not rows:
            features, targets = self._of(rows)
            self._held = rows, (features.to(self._device), targets.to(self._device))
        return self._held[1]

    def _of(self, rows: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        if self._whole is None:
            return self._converted(*self.data.batch(rows))
        features, targets = self._whole
        if len(rows) == len(self.data):
            return features, targets
        chosen = torch.from_numpy(rows).to(features.device)
        return features.index_select(0, chosen), targets.index_select(0, chosen)

    def _converted(self, features: npt.NDArray[Any], targets: npt.NDArray[Any]) -> tuple[Tensor, Tensor]:
        return as_tensor(features).to(self._types[0]), as_tensor(targets).to(self._types[1])


def as_tensor(leaf: Any) -> Tensor:
    """A tensor of any leaf; shares memory where it may be written to."""
    if isinstance(leaf, Tensor):
        return leaf
    array = np.asarray(tree.load(leaf))
    return torch.from_numpy(array if array.flags.writeable else array.copy())
