"""Random-k: every round the same few coordinates of all sites, drawn from the study's seed.

Konečný, McMahan, Yu, Richtárik, Suresh, Bacon 2016, "Federated Learning: Strategies for Improving Communication Efficiency", section 3
("subsampling"), with one mask for all sites: of each block of d coordinates k = ⌈fraction · d⌉ are drawn without replacement, and a site sends
d/k times its numbers there. The coordinator puts them back in their places and zeros elsewhere, so that the expected update is the whole one,
E[C(x)] = x, with variance (d/k − 1)·‖x‖². As all sites send the same coordinates, sums of what they send are what a sum of their
updates would have sent: it adds up in secret, and is shortened and noised like any update. The factor d/k is the site's, so a bound on what
leaves a site is a bound on what moves the model. With ``fraction`` = 1 it is the update itself, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from aimer2.compression.compressor import BLOCK, Blockwise, Draws, Form, Parts, block_of, form_of, kept_of, share
from aimer2.core.ranges import COMPRESSION, Range, refuse_outside
from aimer2.core.tree import Array, NumpyArray, read

FRACTION = Range("above 0 and at most 1", lambda value: 0 < value <= 1)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RandomK:
    """Each round the coordinates that all sites send are drawn anew; the others count as unchanged."""

    fraction: float = 0.1
    linear: ClassVar[bool] = True
    aligned: ClassVar[bool] = True
    remembers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        refuse_outside(self, COMPRESSION, fraction=FRACTION)

    def pack(self, array: Array, draws: Draws) -> Parts:
        form = form_of(array)

        def block(number: int) -> NumpyArray:
            whole = block_of(array, number, form.size)
            chosen = whole[self._places(len(whole), draws, number)]
            return np.asarray(chosen * chosen.dtype.type(len(whole) / len(chosen)))

        return {"": Blockwise(self.forms(form)[""], share(self.fraction, BLOCK), block)}

    def forms(self, form: Form) -> Mapping[str, Form]:
        return {"": Form((kept_of(self.fraction, form.size),), form.dtype)}

    def restore(self, parts: Parts, form: Form, draws: Draws) -> Array:
        kept = share(self.fraction, BLOCK)

        def block(number: int) -> NumpyArray:
            whole = np.zeros(min(BLOCK, form.size - number * BLOCK), form.dtype)
            places = self._places(len(whole), draws, number)
            whole[places] = read(parts[""], number * kept, number * kept + len(places))
            return whole

        return Blockwise(form, BLOCK, block)

    def _places(self, length: int, draws: Draws, number: int) -> NumpyArray:
        """In rising order."""
        kept = share(self.fraction, length)
        if kept == length:
            return np.arange(length)
        return np.sort(draws.shared(number).choice(length, kept, replace=False, shuffle=False))


EXAMPLE = RandomK()
