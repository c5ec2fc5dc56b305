"""Images to another size, the same bits on every machine: no library's filter has a part in it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def resampled(image: npt.NDArray[Any], height: int, width: int) -> Floats:
    """``(…, h, w)`` as float64 ``(…, height, width)``: linear between pixels' centres where it grows; where it shrinks, each new pixel is the
    mean of the old ones under a triangle as wide as the step, so that no pixel is left out. A constant image stays constant.
    """
    down, across = _weights(image.shape[-2], height), _weights(image.shape[-1], width)
    result: Floats = down @ image.astype(np.float64) @ across.T
    return result


def nearest(mask: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[Any]:
    """``(…, h, w)`` as ``(…, height, width)``: of each new pixel's centre the old pixel that it lies in. Codes are not mixed."""
    rows, columns = ((np.arange(new) * 2 + 1) * old // (2 * new) for new, old in ((height, mask.shape[-2]), (width, mask.shape[-1])))
    return mask[..., rows[:, None], columns]


def inside(size: tuple[int, ...], into: tuple[int, int]) -> tuple[int, int]:
    """The largest height and width with the proportions of the first that fit into the second."""
    scale = min(into[0] / size[0], into[1] / size[1])
    return min(into[0], max(1, round(size[0] * scale))), min(into[1], max(1, round(size[1] * scale)))


@lru_cache(maxsize=32)
def _weights(old: int, new: int) -> Floats:
    """``(new, old)``; each row adds up to 1."""
    step = old / new
    centres = (np.arange(new) + 0.5) * step - 0.5
    found = np.maximum(0.0, 1 - np.abs(np.arange(old) - centres[:, None]) / max(1.0, step))
    found /= found.sum(axis=1, keepdims=True)
    found.flags.writeable = False
    return found
