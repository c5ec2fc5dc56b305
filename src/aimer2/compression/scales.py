"""The largest magnitude in each bucket of an array: what quantised numbers are relative to."""

from __future__ import annotations

import numpy as np

from aimer2.compression.compressor import Form
from aimer2.core.tree import NumpyArray

SCALE = 1 << 10
"""Coordinates of a bucket: a scale of four bytes for each adds 0.4 % to 8 bits."""


def magnitudes(whole: NumpyArray) -> NumpyArray:
    """The largest magnitude of each bucket, as float32 that is not below it."""
    starts = np.arange(0, len(whole), SCALE)
    largest = np.maximum.reduceat(np.abs(whole), starts) if len(whole) else np.empty(0)
    rounded = largest.astype(np.float32)
    return np.where(rounded < largest, np.nextafter(rounded, np.float32(np.inf)), rounded).astype(np.float32, copy=False)


def expanded(scales: NumpyArray, length: int) -> NumpyArray:
    """Each coordinate's scale, float64."""
    return np.repeat(scales.astype(np.float64), SCALE)[:length]


def scales_form(form: Form) -> Form:
    return Form((-(-form.size // SCALE),), np.dtype("<f4"))
