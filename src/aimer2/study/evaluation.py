"""How pooled sums become the figures that a study reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aimer2.core import tree
from aimer2.core.study import Study
from aimer2.core.task import FigureDocument
from aimer2.core.tree import Tree
from aimer2.metrics.figures import Figure, figures


def pooled(study: Study, sums: Mapping[str, Tree]) -> tuple[FigureDocument, ...]:
    """Figures of the model that a round received, over all sites' held-out patients; none where nothing was held out."""
    if "metrics" not in sums:
        return ()
    metrics = {name: tree.load(leaf) for name, leaf in sums["metrics"].items()}
    return documents(figures(study.cohort.target.kind, metrics, list(dict.fromkeys([*study.metrics, "loss"]))))


def documents(measured: Sequence[Figure]) -> tuple[FigureDocument, ...]:
    return tuple(
        FigureDocument(name=figure.name, value=figure.value, low=figure.low, high=figure.high, n=figure.n, note=figure.note) for figure in measured
    )
