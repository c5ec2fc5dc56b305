"""What a study may set of a ready-made model; readable without any framework."""

from __future__ import annotations

from typing import Annotated, Literal, final

from pydantic import Field

from aimer2.core.errors import BadModel
from aimer2.core.said import say
from aimer2.core.task import Document

Width = Annotated[int, Field(ge=1, le=65_536)]
Share = Annotated[float, Field(ge=0, lt=1)]


@final
class LinearOptions(Document):
    intercept: bool = True


@final
class SgdOptions(Document):
    intercept: bool = True
    penalty: Literal["none", "l2", "l1", "elasticnet"] = "none"
    alpha: float = Field(default=1e-4, ge=0, description="strength of the penalty")


@final
class BoostedTreesOptions(Document):
    trees: int = Field(default=50, ge=1, le=5_000, description="one of each class, if there are more than two")
    max_depth: int = Field(default=3, ge=0, le=8)
    bins: int = Field(default=32, ge=2, le=255, description="per feature; the edges are quantiles of all sites' rows")


@final
class MlpOptions(Document):
    hidden: tuple[Width, ...] = Field(default=(64, 32), description="width of each hidden layer; empty: a linear model")
    activation: Literal["relu", "gelu", "tanh"] = "relu"
    dropout: Share = Field(default=0.0, description="share of hidden values set to zero while training")
    batch_norm: bool = Field(default=False, description="normalise by the batch; its running means differ between sites")


@final
class CnnOptions(Document):
    channels: tuple[Width, ...] = Field(default=(16, 32, 64), min_length=1, description="of each block; a block halves height and width")
    dropout: Share = Field(default=0.0, description="share of values set to zero before the last layer while training")
    batch_norm: bool = Field(default=False, description="normalise by the batch, not by groups of channels; its running means differ between sites")

    @property
    def smallest(self) -> int:
        """Height and width that an image has at the least."""
        return 1 << len(self.channels)


@final
class UnetOptions(Document):
    channels: tuple[Width, ...] = Field(default=(16, 32, 64), min_length=2, description="of each level; a level below has half the height and width")
    dropout: Share = Field(default=0.0, description="share of channels set to zero before the last layer while training")
    batch_norm: bool = Field(default=False, description="normalise by the batch, not by groups of channels; its running means differ between sites")

    @property
    def smallest(self) -> int:
        """Height and width that an image has at the least."""
        return 1 << (len(self.channels) - 1)


def refuse_images(model: str, feature_shape: tuple[int, ...], smallest: int) -> None:
    """Raises BadModel where the features are not images ``(channels, height, width)`` or a side is shorter than ``smallest``."""
    if len(feature_shape) != 3:
        raise BadModel(say("A {model} is for images (channels, height, width); the features have shape {shape}.", model=model, shape=feature_shape))
    _, height, width = feature_shape
    if min(height, width) < smallest:
        raise BadModel(
            say(
                "With so many `channels` an image has at least {smallest}×{smallest} pixels; here it has {height}×{width}: set fewer.",
                smallest=smallest,
                height=height,
                width=width,
            )
        )
