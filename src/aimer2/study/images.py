"""A site's images as the study asks for them: read from the snapshot batch by batch, never all at once.

Every sentence raised here names columns as the study does, and tells what all images of a site have in common, which the site has declared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import numpy.typing as npt

from aimer2.connectors.resampling import nearest, resampled
from aimer2.connectors.table import Column
from aimer2.core.dataset import Part, part_at
from aimer2.core.errors import BadData
from aimer2.core.said import say
from aimer2.core.study import Image
from aimer2.core.study.image import described

Rows = npt.NDArray[Any]

FLAT = 1e-6
"""Below this standard deviation of its intensities an image is of one colour."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Features float32 ``(n, channels, height, width)``: ``rows`` of the site's column, prepared as the study says (`aimer2.core.dataset.Stored`)."""

    values: npt.NDArray[Any]
    rows: npt.NDArray[np.int64]
    wanted: Image

    @classmethod
    def of(cls, column: Column, wanted: Image) -> Pictures:
        return cls(column.values, np.arange(len(column.values)), wanted)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.wanted.shape)

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, rows: Rows) -> Pictures:
        return replace(self, rows=self.rows[rows])

    def __getitem__(self, rows: Rows) -> npt.NDArray[np.float32]:
        return prepared(self.values[self.rows[rows]], self.wanted)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        whole = self[np.arange(len(self))]
        return whole if dtype is None else whole.astype(dtype)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Beside:
    """Images with columns beside them, float32 ``(n, channels + p, height, width)`` (`aimer2.core.dataset.Stored`): after the image's channels one
    for each column, which has its value everywhere. So a row is one array, for every learner and in every format.

    ``columns`` float32 ``(n, p)``, prepared.
    """

    images: Part
    columns: npt.NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        count, channels, height, width = self.images.shape
        return count, channels + self.columns.shape[1], height, width

    def __len__(self) -> int:
        return len(self.images)

    def at(self, rows: Rows) -> Beside:
        return Beside(part_at(self.images, rows), self.columns[rows])

    def __getitem__(self, rows: Rows) -> npt.NDArray[np.float32]:
        images, columns = self.images[rows], self.columns[rows]
        planes = np.broadcast_to(columns[:, :, None, None], (*columns.shape, *images.shape[2:]))
        return np.concatenate([images, planes], axis=1)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        whole = self[np.arange(len(self))]
        return whole if dtype is None else whole.astype(dtype)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """Targets int64 ``(n, height, width)``, the study's number of each pixel's class: ``rows`` of the site's column (`aimer2.core.dataset.Stored`).

    ``order``: by the site's code of a category the study's.
    """

    values: npt.NDArray[Any]
    rows: npt.NDArray[np.int64]
    wanted: Image
    order: npt.NDArray[np.int64]

    @classmethod
    def of(cls, column: Column, wanted: Image, categories: tuple[str, ...]) -> Masks:
        order = [categories.index(name) if name in categories else 0 for name in column.categories]
        return cls(column.values, np.arange(len(column.values)), wanted, np.array(order, np.int64))

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), self.wanted.height, self.wanted.width)

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, rows: Rows) -> Masks:
        return replace(self, rows=self.rows[rows])

    def __getitem__(self, rows: Rows) -> npt.NDArray[np.int64]:
        whole = self.values[self.rows[rows]]
        if whole.shape[1:] != self.shape[1:]:
            whole = nearest(whole, self.wanted.height, self.wanted.width)
        found: npt.NDArray[np.int64] = self.order[whole]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        whole = self[np.arange(len(self))]
        return whole if dtype is None else whole.astype(dtype)

    def classes(self) -> set[int]:
        """Those that occur."""
        return {int(self.order[code]) for row in self.rows for code in np.unique(self.values[row])}


def prepared(images: npt.NDArray[Any], wanted: Image) -> npt.NDArray[np.float32]:
    """Images ``(k, channels, h, w)`` of 8 or 16 bits in the size and with the intensities that the study asks for."""
    whole = images.astype(np.float32) * np.float32(1 / np.iinfo(images.dtype).max)
    if images.shape[2:] != (wanted.height, wanted.width):
        whole = resampled(whole, wanted.height, wanted.width).astype(np.float32)
    if wanted.intensity == "image":
        mean, deviation = (of(whole, axis=(1, 2, 3), keepdims=True) for of in (np.mean, np.std))
        # An image of one colour has nothing to stretch.
        whole = (whole - mean) / np.where(deviation < FLAT, 1.0, deviation)
    elif wanted.mean:
        whole = (whole - _per_channel(wanted.mean)) / _per_channel(wanted.deviation)
    return np.asarray(whole, np.float32)


def _per_channel(numbers: tuple[float, ...]) -> npt.NDArray[np.float32]:
    return np.array(numbers, np.float32).reshape(1, -1, 1, 1)


def check_image(wanted: Image, column: Column) -> None:
    """Raises BadData where the site's images have another form."""
    if column.kind != "image":
        raise BadData(say("Column {name} is a {kind}, the study asks for images.", name=f"{wanted.name!r}", kind=column.kind))
    channels, height, width = column.values.shape[1:]
    if channels != wanted.channels or (wanted.resize == "refuse" and (height, width) != (wanted.height, wanted.width)):
        has = described(channels, height, width)
        raise BadData(say("Column {name} holds images {has}, the study asks for {size}.", name=f"{wanted.name!r}", has=has, size=wanted.size))
    bits = 8 * column.values.itemsize
    if wanted.bits not in (None, bits):
        raise BadData(
            say("Column {name} holds images of {bits} bits, the study asks for {asked}.", name=f"{wanted.name!r}", bits=bits, asked=wanted.bits)
        )


def check_mask(wanted: Image, name: str, column: Column, images: Column) -> None:
    """Raises BadData where the masks are not of the images' size."""
    if images.kind == "image" and column.kind == "mask" and column.values.shape[1:] != images.values.shape[2:]:
        has, other = ("{}×{}".format(*size) for size in (column.values.shape[1:], images.values.shape[2:]))
        raise BadData(
            say("Column {name} holds masks of {has}, {images} images of {other}.", name=f"{name!r}", has=has, images=f"{wanted.name!r}", other=other)
        )


def strange(column: Column, codes: list[int]) -> npt.NDArray[np.bool_]:
    """The masks in which one of these codes occurs."""
    if not codes:
        return np.zeros(len(column.values), bool)
    return np.array([np.isin(mask, codes).any() for mask in column.values], bool)
