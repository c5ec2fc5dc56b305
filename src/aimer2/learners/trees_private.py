"""Boosted trees of drawn splits under differential privacy: each leaf's sums get noise before a method sees them.

Of each tree every patient is drawn with probability q (``sampling_rate``); the derivatives (g, h) of a drawn patient's rows are shortened to length C
(``clip_norm``; over all classes together, and those of several rows count as their mean); to the sums of a tree's leaves comes Gaussian noise of
standard deviation σ·C (``noise_multiplier``). A patient's rows are each in one leaf of a tree, so one patient more or less moves all sums of a
tree together by C at most (Abadi et al. 2016, and Maddock et al. 2022, "Federated Boosted Decision Trees with Differential Privacy", section 4). Who
was drawn and the noise come from the system's secure source, never from the study's seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import numpy as np
import numpy.typing as npt

from aimer2.core.dataset import Dataset
from aimer2.core.random import SecureBytes
from aimer2.core.tree import Tree
from aimer2.learners.recipe import Recipe
from aimer2.learners.records import Records, inside, told
from aimer2.learners.trees import Forest, TreesLearner
from aimer2.privacy.gaussian import gaussian
from aimer2.privacy.terms import Terms

Array = npt.NDArray[Any]


@final
class PrivateTreesLearner(TreesLearner):
    """Tells of the training rows by noisy sums of leaves alone, and of held-out patients by noisy counts."""

    def __init__(self, build: Callable[[], Forest], recipe: Recipe, device: str | None, terms: Terms, source: SecureBytes | None = None) -> None:
        """``source`` is for tests alone."""
        super().__init__(build, recipe, device)
        self._terms = terms
        self._source = SecureBytes() if source is None else source

    def leaves(self, data: Dataset, number: int) -> tuple[Array, Array]:
        """Derivatives that are no numbers count as none: a failure would tell of the patient."""
        records, terms = Records.of(inside(data)), self._terms
        with np.errstate(all="ignore"):
            parts = np.concatenate(self.derivatives(records.rows, number), axis=1)
            lengths = np.linalg.norm(parts, axis=1)
        counted = np.isfinite(lengths)
        factors = np.divide(terms.clip_norm, lengths, out=np.ones_like(lengths), where=counted & (lengths > terms.clip_norm))
        factors *= counted * records.shares(records.draw(terms.sampling_rate, self._source))
        outputs = parts.shape[1] // 2
        shortened = np.nan_to_num(parts, posinf=0.0, neginf=0.0) * factors[:, None]
        sums = self.summed(records.rows, number, shortened[:, :outputs], shortened[:, outputs:])
        return tuple(self._noisy(one) for one in sums)  # type: ignore[return-value]

    def evaluate(self, data: Dataset) -> Tree:
        """Noisy counts over held-out patients (`aimer2.learners.records.told`)."""
        return told(data, self._recipe, self._terms, self._source, self.predict)

    def _noisy(self, clear: Array) -> Array:
        noise = gaussian(self._source, self._terms.noise_multiplier * self._terms.clip_norm, clear.size)
        noisy: Array = clear + noise.reshape(clear.shape)
        return noisy
