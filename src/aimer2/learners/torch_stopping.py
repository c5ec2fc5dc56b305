"""Early stopping: training ends where the loss on rows that are not trained on no longer falls."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import final

import torch
from torch import Tensor


@final
class Stopping:
    """Remembers the best weights and running means of a fit. At least one pass always counts: a model that never moved would stay so."""

    def __init__(self, patience: int, weights: Mapping[str, Tensor]) -> None:
        self._patience = patience
        self._weights = weights
        self._best: tuple[float, dict[str, Tensor]] = (inf, {})
        self._worse = 0

    def enough(self, loss: float) -> bool:
        """Whether so many passes as the patience allows were not better than the best one before; ``loss`` is that after one more pass."""
        if loss < self._best[0] or not self._best[1]:
            self._best, self._worse = (loss, {name: leaf.clone() for name, leaf in self._weights.items()}), 0
        else:
            self._worse += 1
        return self._worse >= self._patience

    def restore(self) -> None:
        with torch.no_grad():
            for name, leaf in self._best[1].items():
                self._weights[name].copy_(leaf)
