"""Trivial local work, so that what is left is the framework: a model of any size whose training is one addition."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt


class Trivial:
    """A numpy model of ``size`` float32 weights; its gradient is a constant that differs by site; it takes ``seconds``, idle."""

    def __init__(self, size: int, seconds: float) -> None:
        self._size = size
        self._seconds = seconds
        self._steps: dict[float, npt.NDArray[np.float32]] = {}

    def initial(self, rng: np.random.Generator) -> dict[str, npt.NDArray[np.float32]]:
        return {"weights": rng.random(self._size, np.float32)}

    def gradient(
        self, parameters: Mapping[str, npt.NDArray[np.float32]], features: npt.NDArray[np.float64], targets: npt.NDArray[np.int64]
    ) -> tuple[float, dict[str, npt.NDArray[np.float32]]]:
        time.sleep(self._seconds)
        slope = float(features[0, 0])
        if slope not in self._steps:
            self._steps = {slope: np.full(self._size, slope, np.float32)}
        return 0.0, {"weights": self._steps[slope]}

    def predict(self, parameters: Mapping[str, npt.NDArray[np.float32]], features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.full(len(features), 0.5)


def build(features: int, classes: int, size: int, seconds: float = 0.0) -> Trivial:
    return Trivial(size, seconds)
