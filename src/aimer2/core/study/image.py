"""The images that a model sees: which column of them, and in which form."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from aimer2.core.study.fields import Above0, ColumnName
from aimer2.core.task import Document


class Image(Document):
    """One column of images. Of one patient there may be several."""

    name: ColumnName
    channels: Literal[1, 3] = Field(default=1, description="1: grey; 3: red, green, blue")
    height: int = Field(ge=1, le=8192, description="pixels")
    width: int = Field(ge=1, le=8192, description="pixels")
    resize: Literal["refuse", "stretch"] = Field(
        default="refuse", description="a site whose images have another size: refuse it, or resample them to this size"
    )
    bits: Literal[8, 16] | None = Field(default=None, description="per channel; a site whose images have others is refused. None: either")
    intensity: Literal["depth", "image"] = Field(
        default="depth", description="0 to 1 over what the bits can hold; or each image to mean 0 and standard deviation 1 by its own pixels"
    )
    mean: tuple[float, ...] = Field(default=(), description="per channel, of intensities from 0 to 1: taken off")
    deviation: tuple[Above0, ...] = Field(default=(), description="per channel: divided by, after `mean`")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("mean", "deviation"):
            if len(getattr(self, name)) not in (0, self.channels):
                raise ValueError(f"`{name}` has one number per channel: {self.channels}")
        if bool(self.mean) != bool(self.deviation):
            raise ValueError("give both `mean` and `deviation`, or neither")
        if self.intensity == "image" and self.mean:
            raise ValueError("intensity = 'image' leaves nothing for `mean` and `deviation` to do")
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.height, self.width

    @property
    def size(self) -> str:
        return described(*self.shape)


def described(channels: int, height: int, width: int) -> str:
    """For people."""
    return f"{'grey' if channels == 1 else 'colour' if channels == 3 else f'{channels} channels'}, {height}×{width}"
