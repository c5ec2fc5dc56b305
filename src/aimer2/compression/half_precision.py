"""Half precision: each number in 16 bits, relative to the largest of its bucket.

IEEE 754-2019 binary16, with a scaled range as in Micikevicius and others 2018, "Mixed Precision Training", section 3.2: of each bucket of 1,024
coordinates with largest magnitude m, v/m is rounded to the nearest number of 11 bits. A number is off by at most 2⁻¹¹ of itself, or by 2⁻²⁵·m
where it is smaller than 2⁻¹⁴·m. So no update overflows, however many patients it is weighted by.

It is no sum: refused under secure aggregation, under differential privacy, and with a bound on the change, which it may exceed by 2⁻¹¹ of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from aimer2.compression.compressor import BLOCK, Blockwise, Draws, Form, Parts, block_of, form_of
from aimer2.compression.scales import SCALE, expanded, magnitudes, scales_form
from aimer2.core.tree import Array, NumpyArray, read

_HALF = np.dtype("<f2")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HalfPrecision:
    """Half the bytes of 32-bit numbers, with three digits of each."""

    linear: ClassVar[bool] = False
    aligned: ClassVar[bool] = True
    remembers: ClassVar[bool] = False

    def pack(self, array: Array, draws: Draws) -> Parts:
        form = form_of(array)
        forms = self.forms(form)

        def values(number: int) -> NumpyArray:
            whole = block_of(array, number, form.size)
            scale = expanded(magnitudes(whole), len(whole))
            return np.divide(whole, scale, out=np.zeros(len(whole), np.float64), where=scale > 0).astype(_HALF)

        def scales(number: int) -> NumpyArray:
            return magnitudes(block_of(array, number, form.size))

        return {"scales": Blockwise(forms["scales"], BLOCK // SCALE, scales), "values": Blockwise(forms["values"], BLOCK, values)}

    def forms(self, form: Form) -> Mapping[str, Form]:
        return {"scales": scales_form(form), "values": Form((form.size,), _HALF)}

    def restore(self, parts: Parts, form: Form, draws: Draws) -> Array:
        def block(number: int) -> NumpyArray:
            values = block_of(parts["values"], number, form.size)
            first = number * (BLOCK // SCALE)
            scales = read(parts["scales"], first, first - (-len(values) // SCALE))
            return (values.astype(np.float64) * expanded(scales, len(values))).astype(form.dtype)

        return Blockwise(form, BLOCK, block)


EXAMPLE = HalfPrecision()
