"""Image files in a folder, and a table beside them that says which file is of which patient."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps
from pydantic import Field

from aimer2.connectors.catalogue import make_source
from aimer2.connectors.mapping import Cells
from aimer2.connectors.pictures import LARGEST, Pixels
from aimer2.core.errors import BadData, NotFound
from aimer2.core.said import say
from aimer2.core.task import Document

FORMATS = ("PNG", "JPEG", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")

_BROKEN = (ArithmeticError, EOFError, LookupError, OSError, SyntaxError, TypeError, ValueError, Warning, struct.error, zlib.error)
"""What a decoder may raise over a broken file; it would quote the file's name."""


class Images(Document):
    """An index, CSV or Parquet, with one row per image and a column of files' names; PNG, JPEG and TIFF of 8 or 16 bits, grey or in colour."""

    path: Path = Field(description="the index; or one image, of which nothing else is told")
    folder: Path | None = Field(default=None, description="where the files' names begin; none: the index's own folder")
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    encoding: str = "utf-8-sig"
    names: tuple[str, ...] | None = None

    def cells(self, columns: Sequence[str]) -> Mapping[str, Cells]:
        if self.path.suffix.lower() in SUFFIXES:
            return {name: np.array([self.path.name], object) for name in columns}
        if self.path.suffix in (".parquet", ".pq"):
            return make_source("parquet", {"path": self.path}).cells(columns)
        given = {"path": self.path, "delimiter": self.delimiter, "encoding": self.encoding, "names": self.names}
        return make_source("csv", given).cells(columns)

    def picture(self, column: str, cell: str, *, codes: bool) -> Pixels:
        root = (self.folder or self.path.parent).resolve()
        if not root.is_dir():
            raise NotFound(say("There is no folder {root}.", root=root))
        try:
            file = (root / cell).resolve()
            there = file.is_file()
        except (OSError, ValueError):
            there = False
        if not there:
            raise BadData("there is no such file.")
        if not file.is_relative_to(root):
            raise BadData("the file lies outside of the folder.")
        return decode(file, codes=codes)


def decode(file: Path, *, codes: bool) -> Pixels:
    """The pixels as stored, the right side up; of a palette the colours, or for ``codes`` the places in it. Transparency is left out.

    Raises BadData that does not name the file.
    """
    try:
        with warnings.catch_warnings(), Pillow.open(file, formats=FORMATS) as image:
            # Of a file that is nearly broken too: a mean over doubtful pixels helps nobody.
            warnings.simplefilter("error")
            if image.width * image.height > LARGEST:
                raise BadData(say("no pixels, or more than {largest}.", largest=f"{LARGEST:,}"))
            if getattr(image, "n_frames", 1) > 1:
                raise BadData("several images in one file.")
            if _cut(image):
                raise BadData("colour of 16 bits, which cannot be read from a file here; give it as npz.")
            return _pixels(ImageOps.exif_transpose(image), codes)
    except _BROKEN:
        raise BadData("not a PNG, JPEG or TIFF file, or a broken one.") from None


def _cut(image: Pillow.Image) -> bool:
    """Whether the decoder would silently take the upper half of each colour's 16 bits alone."""
    tiles = getattr(image, "tile", None) or []
    return image.mode in ("RGB", "RGBA", "LA", "RGBX") and any("16" in str(tile[3]) for tile in tiles)


def _pixels(image: Pillow.Image, codes: bool) -> Pixels:
    match image.mode:
        case "1":
            return np.asarray(image, bool)
        case "L" | "RGB":
            return np.asarray(image)
        case "P":
            return np.asarray(image if codes else image.convert("RGB"))
        case "LA":
            return np.asarray(image.getchannel(0))
        case "RGBA" | "RGBX" | "YCbCr" | "CMYK":
            return np.asarray(image.convert("RGB"))
        case "I;16" | "I;16L" | "I;16B" | "I;16N":
            return np.asarray(image).astype("<u2", copy=False)
        case "I":
            whole = np.asarray(image)
            if whole.min() < 0 or whole.max() > 65_535:
                raise BadData("neither grey nor in colour with 8 or 16 bits.")
            return whole.astype("<u2")
    raise BadData("neither grey nor in colour with 8 or 16 bits.")
