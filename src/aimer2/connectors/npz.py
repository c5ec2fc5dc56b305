"""Numpy archives: arrays of images beside arrays of numbers, as MedMNIST publishes its data sets."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, PrivateAttr

from aimer2.connectors.mapping import Cells
from aimer2.connectors.pictures import Pixels
from aimer2.core.errors import BadData, NotFound
from aimer2.core.said import say
from aimer2.core.task import Document


class Npz(Document):
    """An archive of arrays, one per column and of one length; those of images are ``(n, h, w)`` or ``(n, h, w, 3)``. Read whole into memory."""

    path: Path
    parts: tuple[str, ...] = Field(
        default=(), description="beginnings of names whose arrays follow one another: with train and test, images = train_images + test_images"
    )
    _arrays: dict[str, npt.NDArray[Any]] = PrivateAttr(default_factory=dict)

    def cells(self, columns: Sequence[str]) -> Mapping[str, Cells]:
        if not self.path.is_file():
            raise NotFound(say("There is no file {path}.", path=self.path))
        self._arrays.clear()
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                for name in columns:
                    members = [f"{part}_{name}" for part in self.parts] or [name]
                    if all(member in archive.files for member in members):
                        self._arrays[name] = np.concatenate([archive[member] for member in members])
        except (ValueError, OSError, EOFError, KeyError, TypeError, zipfile.BadZipFile, zlib.error):
            raise BadData(say("{path} cannot be read as an archive of arrays of one form.", path=self.path)) from None
        if len({len(array) for array in self._arrays.values()}) > 1:
            raise BadData(say("{path}: the arrays of the columns differ in length.", path=self.path))
        return {name: self._cells(name, array) for name, array in self._arrays.items()}

    def picture(self, column: str, cell: str, *, codes: bool) -> Pixels:
        return np.asarray(self._arrays[column][int(cell)])

    def _cells(self, name: str, array: npt.NDArray[Any]) -> Cells:
        """Of images the rows' numbers."""
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim > 1:
            return np.array([str(row) for row in range(len(array))], object)
        if array.dtype.kind == "f":
            return array.astype(np.float64)
        if array.dtype.kind not in "biuU":
            raise BadData(say("{path}: {name} is an array neither of numbers nor of texts.", path=self.path, name=f"{name!r}"))
        return np.array([str(int(cell) if array.dtype.kind == "b" else cell) for cell in array], object)
