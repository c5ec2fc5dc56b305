"""What a learner needs of a study: how to train, what for, on which features, what to measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from aimer2.core.dataset import Dataset
from aimer2.core.errors import BadData
from aimer2.core.study import Study, Target, Training
from aimer2.learners import schedules

WITH_MOMENTUM = ("sgd", "rmsprop")
"""The optimisers that take a momentum; the others have their own memory of gradients."""


@final
@dataclass(frozen=True, slots=True)
class Recipe:
    """The study's choices, in one hand."""

    training: Training
    target: Target
    rounds: int
    feature_shape: tuple[int, ...]
    metrics: tuple[str, ...] = ()

    @classmethod
    def of(cls, study: Study, feature_shape: tuple[int, ...]) -> Recipe:
        return cls(study.training, study.cohort.target, study.method.rounds, feature_shape, study.metrics)

    @property
    def score_shape(self) -> tuple[int, ...]:
        """Shape of the prediction of one row."""
        return (self.target.classes,) if self.target.kind == "multiclass" else ()

    def learning_rate(self, round_number: int) -> float:
        return self.training.learning_rate * schedules.factor(self.training.schedule, round_number, self.rounds)

    def check(self, data: Dataset) -> None:
        """Raises BadData where features or targets are not what the model was built for."""
        if tuple(data.feature_shape) != self.feature_shape:
            raise BadData(f"The features have shape {tuple(data.feature_shape)}; the model was built for {self.feature_shape}.")
        targets = np.asarray(data.targets)
        whole = targets.dtype.kind in "iub"
        if targets.ndim != 1 or not (whole or (targets.dtype.kind == "f" and np.isfinite(targets).all())):
            raise BadData("Targets are one finite number per row.")
        if self.target.kind == "regression" or not targets.size:
            return
        if targets.min() < 0 or targets.max() >= self.target.classes or not (whole or (targets == np.floor(targets)).all()):
            raise BadData(f"Targets are class numbers from 0 to {self.target.classes - 1}.")
