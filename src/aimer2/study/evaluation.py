"""How pooled sums become the figures that a study reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from aimer2.core import tree
from aimer2.core.study import Study
from aimer2.core.task import FigureDocument, Stage
from aimer2.core.tree import Tree
from aimer2.metrics.figures import Figure, figures
from aimer2.privacy.disclosure import MINIMUM_CELL, coarse
from aimer2.privacy.noisy_metrics import plausible
from aimer2.study import diagnosis
from aimer2.study.personal import whose


def pooled(study: Study, sums: Mapping[str, Tree]) -> tuple[FigureDocument, ...]:
    """Figures of the model that a round received, over all sites' held-out patients; none where nothing was held out. At the end of a
    personal method also those of the models that the sites keep (`kept auc`) and of those that they trained alone (`local auc`).

    Under differential privacy they come of noisy counts.
    """
    found = (_figures(study, sums["metrics"]) if "metrics" in sums else ()) + diagnosis.figures(study, sums)
    for name, leaves in sums.items():
        if (owner := whose(name)) is not None:
            found += tuple(one.model_copy(update={"name": f"{owner} {one.name}"}) for one in _figures(study, leaves))
    return found


def _figures(study: Study, sums: Tree) -> tuple[FigureDocument, ...]:
    metrics = {name: tree.load(leaf) for name, leaf in sums.items()}
    kind, asked = study.cohort.target.kind, study.privacy.differential_privacy
    if asked is None:
        return documents(figures(kind, metrics, list(dict.fromkeys([*study.metrics, "loss"])), study.parts))
    note = f"each site's counts and bounded sums have noise of {asked.evaluation_noise:g} patients or more; no interval holds it"
    if asked.level == "site":
        note = f"sites count alike, and their sum has noise of {asked.evaluation_noise:g} sites or more per count; no interval holds it"
    return documents([replace(figure, low=None, high=None, note=note) for figure in figures(kind, plausible(metrics), study.metrics, study.parts)])


def documents(measured: Sequence[Figure]) -> tuple[FigureDocument, ...]:
    return tuple(
        FigureDocument(name=figure.name, value=figure.value, low=figure.low, high=figure.high, n=figure.n, note=figure.note) for figure in measured
    )


_MOST, _LONGEST = 400, 200
"""Figures that a site releases at most, and characters of a name."""


def released(study: Study, stage: Stage, measured: Sequence[Figure | FigureDocument], minimum_cell: int = MINIMUM_CELL) -> tuple[FigureDocument, ...]:
    """A site's own figures as it hands them to the study: once, of the last model, and only where the approved study says so.

    Disclosure control: of fewer patients than the minimum cell none is told; the others to two significant digits, their patients to the
    nearest 5, so that no count of a few patients can be worked out of a proportion.
    """
    if stage != "final" or not study.evaluation.release_per_site or study.privacy.differential_privacy is not None:
        return ()
    named = {one.name: one for one in measured if len(one.name) <= _LONGEST and any(metric in one.name for metric in study.metrics)}
    return tuple(
        FigureDocument(name=name, value=_short(one.value), low=_short(one.low), high=_short(one.high), n=told)
        for name, one in list(named.items())[:_MOST]
        if (told := coarse(one.n, minimum_cell)) is not None
    )


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.2g}")
