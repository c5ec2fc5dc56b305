"""What private learners share: rows by patient, who is drawn for a step, and how held-out patients are told of.

The unit is the patient, with all rows. Who is drawn comes from the system's secure source, never from the study's seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, final

import numpy as np
import numpy.typing as npt

from aimer2.core.dataset import Dataset, Samples, Shielded
from aimer2.core.errors import BadData, BadInput
from aimer2.core.random import SecureBytes
from aimer2.core.tree import Tree
from aimer2.learners.recipe import Recipe
from aimer2.privacy.noisy_metrics import noisy_metrics
from aimer2.privacy.terms import Terms


@final
@final
class Records:
    """Rows by patient: ``owner`` ``(n,)`` numbers each row's patient from 0."""

    def __init__(self, rows: Samples, owner: npt.NDArray[np.int64], patients: int) -> None:
        self.rows = rows
        self._owner = owner
        self._patients = patients
        self.single = patients == len(rows)

    @classmethod
    def of(cls, rows: Samples) -> Records:
        if rows.patients is None:
            return cls(rows, np.arange(len(rows)), len(rows))
        known, owner = np.unique(rows.patients, return_inverse=True)
        return cls(rows, owner.astype(np.int64), len(known))

    def draw(self, rate: float, source: SecureBytes) -> npt.NDArray[np.bool_]:
        """Poisson sampling: each patient with this probability, independently."""
        if rate >= 1:
            return np.ones(self._patients, bool)
        return source.words(self._patients) < np.uint64(int(rate * 2**64))

    def parts(self, drawn: npt.NDArray[np.bool_], most: int) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Row numbers in order with their patients' numbers within the part; a patient is in one part, which has about ``most`` rows."""
        rows = np.flatnonzero(drawn[self._owner])
        counts = np.bincount(self._owner[rows], minlength=self._patients)
        part_of = (np.maximum(np.cumsum(counts), 1) - 1) // most
        part = part_of[self._owner[rows]]
        for number in np.unique(part):
            chosen = rows[part == number]
            yield chosen, np.unique(self._owner[chosen], return_inverse=True)[1].astype(np.int64)

    def shares(self, drawn: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        """What each row counts ``(n,)``: those of a drawn patient one together, those of the others nothing."""
        rows = np.bincount(self._owner, minlength=self._patients)
        return (drawn / rows)[self._owner]

    def one_row_each(self, source: SecureBytes) -> npt.NDArray[np.int64]:
        """Of each patient one row, each of them as likely."""
        order = np.lexsort((source.words(len(self.rows)), self._owner))
        return order[np.unique(self._owner[order], return_index=True)[1]]


def inside(data: Dataset) -> Samples:
    """The rows that a method may not read."""
    if isinstance(data, Shielded):
        return data.inside
    if isinstance(data, Samples):
        return data
    raise BadData("Differential privacy needs rows that lie in memory.")


def told(data: Dataset, recipe: Recipe, terms: Terms, source: SecureBytes, predict: Callable[[Samples], npt.NDArray[Any]]) -> Tree:
    """Noisy counts and bounded sums over held-out patients, of each of whom one row, drawn anew, counts.

    Raises BadData for the rows that are trained on: the terms count no such look.
    """
    if not isinstance(data, Samples):
        raise BadData("Under differential privacy no model is measured on the patients that it is trained on.")
    kind, span = recipe.target.kind, recipe.target.span
    if terms.evaluation_noise is None or kind not in ("binary", "multiclass", "regression"):
        raise BadInput("The terms of differential privacy have no evaluation.")
    recipe.check(data)
    rows = data.at(Records.of(data).one_row_each(source))
    return noisy_metrics(kind, predict(rows), np.asarray(rows.targets), recipe.metrics, terms.evaluation_noise, source, span=span)
