"""What a learner needs of a study: how to train, what for, on which features, what to measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from aimer2.core.dataset import Dataset, Samples
from aimer2.core.errors import BadData
from aimer2.core.said import say
from aimer2.core.study import Study, Target, Training
from aimer2.learners import schedules
from aimer2.metrics.survival import Timeline

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
    horizons: tuple[float, ...] = ()

    @classmethod
    def of(cls, study: Study, feature_shape: tuple[int, ...]) -> Recipe:
        return cls(study.training, study.cohort.target, study.method.rounds, feature_shape, study.metrics, study.evaluation.horizons)

    @property
    def score_shape(self) -> tuple[int, ...]:
        """Shape of what the model gives for one row."""
        if self.target.kind == "segmentation":
            return (self.target.classes, *self.feature_shape[1:])
        several = self.target.kind in ("multiclass", "multilabel") or self.target.intervals
        return (self.target.outputs,) if several else ()

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of one row's target: a class or a number; labels; a time and an event."""
        match self.target.kind:
            case "multilabel":
                return (len(self.target.labels),)
            case "survival":
                return (2,)
            case "segmentation":
                return self.feature_shape[1:]
            case _:
                return ()

    @property
    def timeline(self) -> Timeline:
        return Timeline(self.target.intervals, self.horizons)

    def learning_rate(self, round_number: int) -> float:
        return self.training.learning_rate * schedules.factor(self.training.schedule, round_number, self.rounds)

    def check(self, data: Dataset) -> None:
        """Raises BadData where features or targets are not what the model was built for."""
        if tuple(data.feature_shape) != self.feature_shape:
            raise BadData(
                say(
                    "The features have shape {shape}; the model was built for {expected}.",
                    shape=tuple(data.feature_shape),
                    expected=self.feature_shape,
                )
            )
        if not isinstance(data.targets, np.ndarray) and isinstance(data, Samples):
            # Masks in a file: their codes were looked at when the data set was opened.
            self._refuse_shape(tuple(data.targets.shape[1:]))
            return
        targets = np.asarray(data.targets)
        whole = targets.dtype.kind in "iub"
        if targets.shape[1:] != self.target_shape or not (whole or (targets.dtype.kind == "f" and np.isfinite(targets).all())):
            raise BadData(say("Targets are {row} per row.", row=self._row()))
        if self.target.kind == "regression" or not targets.size:
            return
        if self.target.kind == "survival":
            if (targets[:, 0] < 0).any() or not np.isin(targets[:, 1], (0, 1)).all():
                raise BadData("Targets are times from 0 and an event of 0 or 1.")
            return
        last = 1 if self.target.kind == "multilabel" else self.target.classes - 1
        if targets.min() < 0 or targets.max() > last or not (whole or (targets == np.floor(targets)).all()):
            raise BadData(say("Targets are class numbers from 0 to {last}.", last=last))

    def _refuse_shape(self, shape: tuple[int, ...]) -> None:
        if shape != self.target_shape:
            raise BadData(say("Targets are {row} per row.", row=self._row()))

    def _row(self) -> str:
        told = {"multilabel": "finite numbers, one for each label,", "survival": "a finite time and an event"}
        return {**told, "segmentation": "a class number for each pixel"}.get(self.target.kind, "one finite number")
