"""What a study trains and how: the model, the training at a site, the method over the rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from aimer2.core.study.fields import CODE, METHOD, WEIGHTS, Above0, Scalar, unset
from aimer2.core.task import Document


class Model(Document):
    """Which architecture: a named one, or `model.py` beside the study with a function ``build``."""

    framework: Literal["torch", "numpy", "keras", "sklearn", "trees"] = "torch"
    also: tuple[Literal["keras"], ...] = Field(
        default=(), max_length=1, exclude_if=unset, description="frameworks with which a site that lacks torch can train the same named model"
    )
    name: str | None = Field(default=None, description="a model of `aimer2.models`")
    code: str | None = Field(default=None, pattern=CODE, description="a file beside the study with `build(features, classes)`")
    options: Mapping[str, Scalar | tuple[Scalar, ...]] = Field(default_factory=dict)
    weights: str | None = Field(
        default=None,
        pattern=WEIGHTS,
        exclude_if=unset,
        description="a file beside the study with weights to start from; leaves that it lacks start untrained",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.name is None) == (self.code is None):
            raise ValueError("give either `name` or `code`")
        return self


NO_MODEL = Model.model_construct(name=None)
"""Of a study that trains none. No document can say this."""


def without_model(model: Model) -> bool:
    """Whether a study has none: it asks statistical questions."""
    return model.name is None and model.code is None


class Training(Document):
    """How a site trains between two rounds."""

    optimiser: str = "sgd"
    learning_rate: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: str = Field(default="constant", description="constant, cosine, step: of the learning rate over the rounds")
    batch_size: int | None = Field(default=32, ge=1, description="none: all rows at once")
    local_epochs: float | None = Field(default=None, gt=0)
    local_steps: int | None = Field(default=None, ge=1)
    mixed_precision: bool = False
    accumulation: int | None = Field(
        default=None, ge=2, exclude_if=unset, description="each step's batch goes through the model in so many parts, one at a time in memory"
    )
    class_weights: tuple[Above0, ...] = Field(
        default=(), exclude_if=unset, description="factor of the loss, one per class; of multilabel one per label, for its presence"
    )
    ties: Literal["breslow", "efron"] | None = Field(
        default=None, exclude_if=unset, description="of Cox regression: how tied times count; none: efron"
    )
    patience: int | None = Field(
        default=None, ge=1, exclude_if=unset, description="stops after so many passes without a better loss on the validation part"
    )
    validation: float | None = Field(
        default=None, gt=0, lt=1, exclude_if=unset, description="share of the training patients that early stopping looks at; none: 0.2"
    )

    @model_validator(mode="after")
    def _stops(self) -> Self:
        if self.validation is not None and self.patience is None:
            raise ValueError("`validation` serves early stopping: give `patience`")
        if self.patience is not None and self.local_steps is None and (self.local_epochs or 1) <= 1:
            raise ValueError("`patience` counts passes over the rows, and there is one only: raise `local_epochs`")
        return self

    @property
    def validation_share(self) -> float:
        """0 without early stopping."""
        return 0.0 if self.patience is None else 0.2 if self.validation is None else self.validation

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.local_epochs is not None and self.local_steps is not None:
            raise ValueError("give `local_epochs` or `local_steps`, not both (neither: one epoch)")
        return self

    def steps(self, rows: int) -> int:
        """Optimiser steps per round at a site with so many training rows."""
        if self.local_steps is not None:
            return self.local_steps
        per_epoch = 1 if self.batch_size is None else max(1, -(-rows // self.batch_size))
        return max(1, round((self.local_epochs or 1.0) * per_epoch))


class Compression(Document):
    """What makes a site's update smaller before it leaves."""

    name: str = Field(pattern=METHOD)
    parameters: Mapping[str, Scalar] = Field(default_factory=dict)


class Method(Document):
    """Which algorithm, with its hyper-parameters."""

    name: str = Field(default="fedavg", pattern=METHOD)
    rounds: int = Field(default=10, ge=1, le=100_000)
    parameters: Mapping[str, Scalar] = Field(default_factory=dict)
    largest_change: float | None = Field(
        default=None, gt=0, exclude_if=unset, description="L2 norm that a site's mean change of the model may have; its agent shortens a longer one"
    )
    aggregator: str = Field(default="weighted_mean", pattern=METHOD, description="what makes one update of the sites' updates")
    aggregator_parameters: Mapping[str, Scalar] = Field(default_factory=dict)
    compression: Compression | None = Field(default=None, exclude_if=unset, description="of the sites' updates; none: they travel whole")
    downlink: Literal["zstd", "changes"] | None = Field(
        default=None,
        exclude_if=unset,
        description="how large models reach the sites, without loss: packed, or as what has changed where a site has the last one; none: whole",
    )
