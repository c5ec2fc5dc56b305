"""What a study's statistical questions rest on and tell: what a site compares with the questions that it answered before.

Two answers over nearly the same patients tell, by their difference, of the few who are in one alone (Denning and Schlörer 1980). And every
coefficient is one equation of the patients' values: with as many as there are patients, each value can be worked out (Dinur and Nissim 2003).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from aimer2.core.dataset import Frame
from aimer2.core.study import Study
from aimer2.statistics.statistic import AbstractStatistic
from aimer2.study.analysing import analyses_of

Patients = npt.NDArray[np.uint64]
"""Pseudonyms, each once, rising."""


@final
@dataclass(frozen=True, slots=True)
class Asked:
    """One question: of each column that it tells of the terms; its cohorts (the whole one is named ""), and the columns that it tells by each."""

    analysis: str
    equations: Mapping[str, Sequence[str]]
    cohorts: Mapping[str, Patients]
    columns: Mapping[str, frozenset[str]]

    def cohort_of(self, column: str) -> Patients:
        """By whose values a column is told."""
        return self.cohorts.get(column, self.cohorts[""])


def cohorts_of(methods: Mapping[str, AbstractStatistic], frame: Frame) -> dict[str, bytes]:
    """``analysis cohort`` → which of the frame's patients, in the order of their pseudonyms, are in it: a bit each."""
    everybody = np.unique(frame.patients)
    return {
        f"{name} {cohort.name}": np.packbits(np.isin(everybody, cohort.rows.patients)).tobytes()
        for name, method in methods.items()
        for cohort in method.cohorts(frame)
    }


def asked_of(study: Study, cohorts: Mapping[str, bytes], everybody: Patients) -> list[Asked]:
    """Raises ValueError where the cohorts are not those of the study's questions over these patients."""
    found = []
    for name, method in analyses_of(study).methods.items():
        own = {label.partition(" ")[2]: bits for label, bits in cohorts.items() if label.partition(" ")[0] == name}
        columns = {cohort.name: cohort.columns for cohort in method.cohorts(Frame.empty([column.name for column in study.columns]))}
        if columns.keys() != own.keys():
            raise ValueError(f"The cohorts of {name} are not those of its question.")
        parts = {cohort: everybody[_places(bits, len(everybody))] for cohort, bits in own.items()}
        found.append(Asked(name, method.equations(), parts, columns))
    return found


def _places(bits: bytes, size: int) -> npt.NDArray[np.bool_]:
    if len(bits) != -(-size // 8):
        raise ValueError("There are not as many bits as patients.")
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=size).astype(bool)
