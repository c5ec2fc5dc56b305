"""Top-k: a site sends the largest coordinates of its update; what it leaves out it keeps, and adds to its next one.

Stich, Cordonnier, Jaggi 2018, "Sparsified SGD with Memory", Algorithm 1: with a_t = m_t + x_t, x_t the site's change and m_t what it has left out
so far, it sends top_k(a_t) and keeps m_{t+1} = a_t − top_k(a_t). Here the k = ⌈fraction · d⌉ largest are those of each block of d coordinates.
(The paper sends single gradients; here x_t is the change of a round, weighted by the site's rows.) Nothing is lost for good, but it comes late.
With ``fraction`` = 1 it is the update itself.

Which coordinates are the largest depends on the site's patients, and sites choose differently: so it is no sum, and is refused under secure
aggregation, under differential privacy, with a bound on the change, and with an aggregator that compares sites. What a site has left out stays
there, as part of its memory of the study.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from aimer2.compression.compressor import BLOCK, Blockwise, Draws, Form, Parts, block_of, form_of, kept_of, share
from aimer2.compression.random_k import FRACTION
from aimer2.core.ranges import COMPRESSION, refuse_outside
from aimer2.core.tree import Array, NumpyArray, read

_POSITION = np.dtype("<u2")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """The largest coordinates and their positions travel: two bytes more for each."""

    fraction: float = 0.05
    linear: ClassVar[bool] = False
    aligned: ClassVar[bool] = False
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        refuse_outside(self, COMPRESSION, fraction=FRACTION)

    def pack(self, array: Array, draws: Draws) -> Parts:
        form = form_of(array)
        forms, kept = self.forms(form), share(self.fraction, BLOCK)

        def places(number: int) -> NumpyArray:
            return self._largest(block_of(array, number, form.size))

        def values(number: int) -> NumpyArray:
            whole = block_of(array, number, form.size)
            return whole[self._largest(whole)]

        return {"places": Blockwise(forms["places"], kept, places), "values": Blockwise(forms["values"], kept, values)}

    def forms(self, form: Form) -> Mapping[str, Form]:
        shape = (kept_of(self.fraction, form.size),)
        return {"places": Form(shape, _POSITION), "values": Form(shape, form.dtype)}

    def restore(self, parts: Parts, form: Form, draws: Draws) -> Array:
        kept = share(self.fraction, BLOCK)

        def block(number: int) -> NumpyArray:
            whole = np.zeros(min(BLOCK, form.size - number * BLOCK), form.dtype)
            low, high = number * kept, number * kept + share(self.fraction, len(whole))
            places = read(parts["places"], low, high)
            if places.max(initial=0) >= len(whole) or np.any(places[1:] <= places[:-1]):
                return np.full_like(whole, np.nan)
            whole[places] = read(parts["values"], low, high)
            return whole

        return Blockwise(form, BLOCK, block)

    def _largest(self, whole: NumpyArray) -> NumpyArray:
        """Their positions in rising order."""
        kept = share(self.fraction, len(whole))
        if kept == len(whole):
            return np.arange(kept).astype(_POSITION)
        chosen = np.argpartition(np.abs(whole), len(whole) - kept)[len(whole) - kept :]
        return np.sort(chosen).astype(_POSITION)


EXAMPLE = TopK()
