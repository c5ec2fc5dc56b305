"""Stochastic quantisation: each number as a whole number of steps of 8 or 4 bits, rounded up or down at random.

Alistarh, Grubic, Li, Tomioka, Vojnovic 2017, "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", section 3, in the form
of its experiments: by buckets, scaled by the largest magnitude m in place of the norm. Q(v) = m/s · ξ with s = 127 (8 bits) or 7 (4 bits) and
ξ = ⌊s·v/m + u⌋, u uniform in [0, 1). So E[Q(v)] = v, and no number moves by more than a step m/s. A bucket has 1,024 coordinates.

The rounding is each site's own and is seeded, so it hides nothing. It is no sum (the sum of rounded updates has other steps), so it is refused
under secure aggregation, whose own quantisation it would only double, under differential privacy, and with a bound on the change, which it may
exceed by a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from aimer2.compression.compressor import BLOCK, Blockwise, Draws, Form, Parts, block_of, form_of
from aimer2.compression.scales import SCALE, expanded, magnitudes, scales_form
from aimer2.core.ranges import COMPRESSION, Range, refuse_outside
from aimer2.core.tree import Array, NumpyArray, read

_CODES = np.dtype("u1")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StochasticQuantisation:
    """A quarter or an eighth of the bytes of 32-bit numbers, without bias. ``bits``: 8 or 4 for each number."""

    bits: int = 8
    linear: ClassVar[bool] = False
    aligned: ClassVar[bool] = True
    remembers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        refuse_outside(self, COMPRESSION, bits=Range("8 or 4", lambda value: value in (4, 8)))

    @property
    def steps(self) -> int:
        """s, on either side of zero."""
        return 127 if self.bits == 8 else 7

    def pack(self, array: Array, draws: Draws) -> Parts:
        form = form_of(array)
        forms = self.forms(form)

        def codes(number: int) -> NumpyArray:
            whole = block_of(array, number, form.size)
            scale = expanded(magnitudes(whole), len(whole))
            # a bucket of zeros has any step
            ratio = np.divide(whole, scale, out=np.zeros(len(whole), np.float64), where=scale > 0) * self.steps
            level = np.floor(ratio + draws.own(number).random(len(whole)))
            return self._joined((np.clip(level, -self.steps, self.steps) + self.steps).astype(_CODES))

        def scales(number: int) -> NumpyArray:
            return magnitudes(block_of(array, number, form.size))

        return {
            "codes": Blockwise(forms["codes"], BLOCK * self.bits // 8, codes),
            "scales": Blockwise(forms["scales"], BLOCK // SCALE, scales),
        }

    def forms(self, form: Form) -> Mapping[str, Form]:
        return {"codes": Form((-(-form.size * self.bits // 8),), _CODES), "scales": scales_form(form)}

    def restore(self, parts: Parts, form: Form, draws: Draws) -> Array:
        def block(number: int) -> NumpyArray:
            length = min(BLOCK, form.size - number * BLOCK)
            first, first_scale = number * BLOCK * self.bits // 8, number * (BLOCK // SCALE)
            codes = self._split(read(parts["codes"], first, first - (-length * self.bits // 8)), length)
            scales = read(parts["scales"], first_scale, first_scale - (-length // SCALE))
            level = codes.astype(np.float64) - self.steps
            return (level / self.steps * expanded(scales, length)).astype(form.dtype)

        return Blockwise(form, BLOCK, block)

    def _joined(self, codes: NumpyArray) -> NumpyArray:
        """Of 4 bits two in a byte, the first in its lower half."""
        if self.bits == 8:
            return codes
        pairs = np.zeros(len(codes) + len(codes) % 2, _CODES)
        pairs[: len(codes)] = codes
        return pairs[0::2] | pairs[1::2] << 4

    def _split(self, joined: NumpyArray, length: int) -> NumpyArray:
        if self.bits == 8:
            return joined
        codes = np.empty(2 * len(joined), _CODES)
        codes[0::2], codes[1::2] = joined & 15, joined >> 4
        return codes[:length]


EXAMPLE = StochasticQuantisation()
