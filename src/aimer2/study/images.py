"""A site's images as the study asks for them: read from the snapshot batch by batch, never all at once.

Every sentence raised here names columns as the study does, and tells what all images of a site have in common, which the site has declared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import numpy.typing as npt

from aimer2.connectors.resampling import resampled
from aimer2.connectors.table import Column
from aimer2.core.errors import BadData
from aimer2.core.study import Image
from aimer2.core.study.image import described

Rows = npt.NDArray[Any]


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


def prepared(images: npt.NDArray[Any], wanted: Image) -> npt.NDArray[np.float32]:
    """Images ``(k, channels, h, w)`` of 8 or 16 bits in the size and with the intensities that the study asks for."""
    whole = images.astype(np.float32) * np.float32(1 / np.iinfo(images.dtype).max)
    if images.shape[2:] != (wanted.height, wanted.width):
        whole = resampled(whole, wanted.height, wanted.width).astype(np.float32)
    if wanted.intensity == "image":
        mean, deviation = (of(whole, axis=(1, 2, 3), keepdims=True) for of in (np.mean, np.std))
        # An image of one colour has nothing to stretch.
        whole = (whole - mean) / np.where(deviation < _FLAT, 1.0, deviation)
    elif wanted.mean:
        whole = (whole - _per_channel(wanted.mean)) / _per_channel(wanted.deviation)
    return np.asarray(whole, np.float32)


_FLAT = 1e-6


def _per_channel(numbers: tuple[float, ...]) -> npt.NDArray[np.float32]:
    return np.array(numbers, np.float32).reshape(1, -1, 1, 1)


def check_image(wanted: Image, column: Column) -> None:
    """Raises BadData where the site's images have another form."""
    if column.kind != "image":
        raise BadData(f"Column {wanted.name!r} is a {column.kind}, the study asks for images.")
    channels, height, width = column.values.shape[1:]
    if channels != wanted.channels or (wanted.resize == "refuse" and (height, width) != (wanted.height, wanted.width)):
        has = described(channels, height, width)
        raise BadData(f"Column {wanted.name!r} holds images {has}, the study asks for {wanted.size}.")
    bits = 8 * column.values.itemsize
    if wanted.bits not in (None, bits):
        raise BadData(f"Column {wanted.name!r} holds images of {bits} bits, the study asks for {wanted.bits}.")
