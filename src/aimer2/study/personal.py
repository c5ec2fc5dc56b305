"""A hospital's own model at the end of a study: chosen on its validation patients, measured on its held-out ones, kept at the site."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, final

import numpy as np

from aimer2.algorithms.personal import Personal, fit
from aimer2.core import tree
from aimer2.core.dataset import Dataset, Samples, rows_of
from aimer2.core.errors import BadData
from aimer2.core.protocols import Local
from aimer2.core.study import Study
from aimer2.core.tree import Tree
from aimer2.learners.batches import validation
from aimer2.metrics.figures import Figure, figures

Whose: TypeAlias = Literal["common", "personal", "local"]

START, MODEL, PREPARATION = "start", "personal", "preparation"
"""What the site's memory holds: the weights it received first, the model it keeps, the means and deviations it was trained with."""

_SUMS = {"kept_metrics": "kept", "local_metrics": "local"}
_OWN_SIDES = np.uint64(0x9E3779B97F4A7C15)


@final
@dataclass(frozen=True, slots=True)
class Compared:
    """Which model a site keeps, and what each is worth on its held-out patients."""

    kept: Whose
    model: Tree
    measured: Mapping[Whose, Tree]
    judges: int
    """How many validation rows have chosen."""

    @property
    def sums(self) -> dict[str, Tree]:
        """What leaves the site: of the common model, of the kept one, of the one trained alone."""
        return {
            "metrics": self.measured["common"],
            "kept_metrics": self.measured[self.kept],
            "local_metrics": self.measured["local"],
        }


def divide(data: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """The rows that models are trained on, and those of the validation patients who choose between them; by patient, where they are told.

    The side hangs on the pseudonym alone, but on another draw than that of early stopping. Raises BadData where either is empty.
    """
    known = data.patients if isinstance(data, Samples) else None
    patients = np.arange(len(data), dtype=np.uint64) if known is None else known
    judges = validation(patients ^ _OWN_SIDES, share)
    if judges.all() or not judges.any():
        raise BadData("There are too few patients to set some aside who choose between the common model and the site's own.")
    return rows_of(data, np.flatnonzero(~judges)), rows_of(data, np.flatnonzero(judges))


def compare(algorithm: Personal, received: Mapping[str, Tree], common: Tree, site: Local, judges: Dataset, held_out: Dataset) -> Compared:
    """The common model, the site's own, and the one trained alone: the one of the least loss on the validation rows is kept."""
    makers: Mapping[Whose, Callable[[], Tree]] = {
        "common": lambda: common,
        "personal": lambda: algorithm.personal(received, site),
        "local": lambda: _alone(site, site.memory.get(START, common), algorithm.rounds),
    }
    models, losses, measured = dict[Whose, Tree](), dict[Whose, float](), dict[Whose, Tree]()
    for whose, make in makers.items():
        models[whose] = make()
        site.learner.load(models[whose])
        losses[whose] = tree.scalar(site.learner.evaluate(judges), "loss")
        measured[whose] = site.learner.evaluate(held_out)
    kept = min(losses, key=losses.__getitem__)
    return Compared(kept, models[kept], measured, len(judges))


def _alone(site: Local, start: Tree, rounds: int) -> Tree:
    """What the site makes without the others: as many steps, at the same learning rates."""
    site.learner.load(start)
    made = start
    for number in range(1, rounds + 1):
        made = fit(replace(site, round_number=number))
    return made


def told(study: Study, compared: Compared) -> list[Figure]:
    """For the site's own report: the figures of both other models and of the one that is kept, and which that is."""
    kind, measured = study.cohort.target.kind, compared.measured
    found = [
        replace(figure, name=f"{name} {figure.name}")
        for name, sums in (("personal", measured["personal"]), ("local", measured["local"]), ("kept", measured[compared.kept]))
        for figure in figures(kind, sums, study.metrics, study.parts)
    ]
    note = f"kept: the {compared.kept} model, of the least loss on the validation patients"
    return [*found, Figure("kept", None, None, None, compared.judges, note)]


def whose(sum_name: str) -> str | None:
    """Which model's figures a sum of the last evaluation holds, beside those of the common model."""
    return _SUMS.get(sum_name)


def sums_at_the_end(leaving: Collection[str]) -> frozenset[str]:
    """Of the sums that a method's page names, those that leave a site after the last round."""
    return frozenset(leaving) & _SUMS.keys()
