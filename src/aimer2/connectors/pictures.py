"""From images as a source has them to one column: same channels, same size, same bits, in a file that is mapped into memory.

Sentences raised here say what is wrong and with how many images, never with which: a file's name may be a patient's.
"""

from __future__ import annotations

import errno
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, final, runtime_checkable

import numpy as np
import numpy.typing as npt

from aimer2.connectors.mapping import Cells, ColumnMapping
from aimer2.connectors.resampling import inside, nearest, resampled
from aimer2.connectors.table import Column
from aimer2.core.errors import BadData, OutOfResources
from aimer2.core.said import say

Pixels = npt.NDArray[Any]

LARGEST = 100_000_000
"""Pixels of an image: more are taken for a broken or hostile file."""

_WHITE = {np.dtype("u1"): 255, np.dtype("<u2"): 65_535}
_GREY = np.array([299, 587, 114], np.float64) / 1000
"""The weights of red, green and blue in grey: ITU-R BT.601."""


@runtime_checkable
class HasPictures(Protocol):
    """A source whose cells may stand for images."""

    def picture(self, column: str, cell: str, *, codes: bool) -> Pixels:
        """The image of this cell of a column: ``(h, w)`` or ``(h, w, 3)``, bool, 8 or 16 bits. ``codes``: as stored, for a mask.

        Raises BadData that says what is wrong, and names neither file nor patient.
        """
        ...


def gather(name: str, column: ColumnMapping, cells: Cells, *, source: HasPictures, scratch: Path | None) -> Column:
    """The column, its values mapped from a file in ``scratch`` that nobody else can open and that vanishes with the last who uses it.

    Raises BadData with every kind of fault and the number of images that have it, OutOfResources where the disk is full.
    """
    faults: Counter[str] = Counter()
    with tempfile.TemporaryFile(dir=scratch) as file:
        form: _Form | None = None
        for pixels in _read(column.source or name, column, cells, source, faults):
            try:
                form = form or _Form.of(column, pixels)
                made = form.made(pixels)
            except BadData as error:
                faults[error.sentence] += 1
                continue
            if not faults:
                _write(file, made)
        if faults:
            told = "; ".join(f"{count} of {len(cells)} {'images' if len(cells) > 1 else 'image'}: {fault}" for fault, count in sorted(faults.items()))
            raise BadData(
                say("Column {name}: {told}", name=f"{name!r}", told=told),
                remedy="Correct these images or their column of the index, or leave their rows out.",
            )
        if form is None:
            raise BadData(say("Column {name}: there is no image.", name=f"{name!r}"))
        file.flush()
        values = np.memmap(file, form.type, "r", shape=(len(cells), *form.shape))
    return Column(column.kind, np.asarray(values), column.categories)


def _read(place: str, column: ColumnMapping, cells: Cells, source: HasPictures, faults: Counter[str]) -> Iterator[Pixels]:
    for cell in cells:
        try:
            if not cell:
                raise BadData("the cell that names the file is empty.")
            yield source.picture(place, str(cell), codes=column.kind == "mask")
        except BadData as error:
            faults[error.sentence] += 1


def _write(file: BinaryIO, made: Pixels) -> None:
    try:
        file.write(np.ascontiguousarray(made).data)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfResources("There is no room for the images.") from None
        raise


@final
@dataclass(frozen=True, slots=True)
class _Form:
    """What all images of a column have in common: what the mapping says of it, for the rest the first image. ``codes``: of a mask the code of
    each pixel value, 256 where it has none.
    """

    column: ColumnMapping
    channels: int
    height: int
    width: int
    type: np.dtype[Any]
    codes: npt.NDArray[np.int64] | None = None

    @classmethod
    def of(cls, column: ColumnMapping, first: Pixels) -> _Form:
        checked = _checked(first, column)
        height, width = checked.shape[:2]
        channels = column.channels or (3 if checked.ndim == 3 else 1)
        mask = column.kind == "mask"
        kind = np.dtype("u1") if mask else checked.dtype
        return cls(column, channels, column.height or height, column.width or width, kind, _codes(column) if mask else None)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.height, self.width) if self.codes is not None else (self.channels, self.height, self.width)

    def made(self, pixels: Pixels) -> Pixels:
        """Raises BadData where it has another form that may not be changed."""
        checked = _checked(pixels, self.column)
        fits = checked.shape[:2] == (self.height, self.width)
        if not fits and self.column.resize == "refuse":
            raise BadData(say("another size than {height}×{width}; `resize` in the mapping changes sizes.", height=self.height, width=self.width))
        if self.codes is not None:
            return self._mask(checked)
        if checked.dtype != self.type:
            raise BadData(say("not of {itemsize} bits, as the first is.", itemsize=8 * self.type.itemsize))
        if checked.ndim == 2 and self.channels == 3:
            raise BadData("grey, not in colour.")
        image = np.moveaxis(checked, 2, 0) if checked.ndim == 3 else checked[None]
        white = self.column.white or _WHITE[self.type]
        if fits and len(image) == self.channels and white == _WHITE[self.type]:
            return image
        whole = image.astype(np.float64)
        if len(image) == 3 and self.channels == 1:
            whole = np.tensordot(_GREY, whole, axes=1)[None]
        if not fits:
            whole = self._resized(whole)
        return np.clip(np.rint(whole * (_WHITE[self.type] / white)), 0, _WHITE[self.type]).astype(self.type)

    def _mask(self, checked: Pixels) -> Pixels:
        if checked.ndim == 3:
            raise BadData("a mask in colour: its pixels must be codes.")
        assert self.codes is not None
        found = self.codes[checked]
        if (found == _NO_CODE).any():
            raise BadData("pixel values that the mapping does not list.")
        made: Pixels = found.astype(np.uint8)
        return made if made.shape == (self.height, self.width) else self._resized(made)

    def _resized(self, image: Pixels) -> Pixels:
        """``(…, h, w)`` to the size of all; what is padded is black, or the first category."""
        to = nearest if self.codes is not None else resampled
        if self.column.resize == "stretch":
            return to(image, self.height, self.width)
        height, width = inside(image.shape[-2:], (self.height, self.width))
        whole = np.zeros((*image.shape[:-2], self.height, self.width), image.dtype)
        top, left = (self.height - height) // 2, (self.width - width) // 2
        whole[..., top : top + height, left : left + width] = to(image, height, width)
        return whole


_NO_CODE = 256


def _codes(column: ColumnMapping) -> npt.NDArray[np.int64]:
    codes = np.full(65_536, _NO_CODE)
    values = column.values or {str(number): name for number, name in enumerate(column.categories)}
    for value, category in values.items():
        if int(value) < len(codes):
            codes[int(value)] = column.categories.index(category)
    return codes


def _checked(pixels: Pixels, column: ColumnMapping) -> Pixels:
    """Grey or in colour, 8 or 16 bits; truth values are black and white, in a mask the codes 0 and 1."""
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(1 if column.kind == "mask" else 255)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.dtype.newbyteorder("<") not in _WHITE or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise BadData("neither grey nor in colour with 8 or 16 bits.")
    if pixels.size == 0 or pixels.shape[0] * pixels.shape[1] > LARGEST:
        raise BadData(say("no pixels, or more than {largest}.", largest=f"{LARGEST:,}"))
    return pixels.astype(pixels.dtype.newbyteorder("<"), copy=False)
