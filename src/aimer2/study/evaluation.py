"""How pooled sums become the figures that a study reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from aimer2.core import tree
from aimer2.core.study import Study
from aimer2.core.task import FigureDocument
from aimer2.core.tree import Tree
from aimer2.metrics.figures import Figure, figures


def pooled(study: Study, sums: Mapping[str, Tree]) -> tuple[FigureDocument, ...]:
    """Figures of the model that a round received, over all sites' held-out patients; none where nothing was held out.

    Under differential privacy they come of noisy counts, of which those below 0 count as 0.
    """
    if "metrics" not in sums:
        return ()
    metrics = {name: tree.load(leaf) for name, leaf in sums["metrics"].items()}
    kind, asked = study.cohort.target.kind, study.privacy.differential_privacy
    if asked is None:
        return documents(figures(kind, metrics, list(dict.fromkeys([*study.metrics, "loss"]))))
    counts = {name: np.maximum(leaf, 0) for name, leaf in metrics.items()}
    note = f"each site's counts have noise of {asked.evaluation_noise:g} patients or more; no interval holds it"
    return documents([replace(figure, low=None, high=None, note=note) for figure in figures(kind, counts, study.metrics)])


def documents(measured: Sequence[Figure]) -> tuple[FigureDocument, ...]:
    return tuple(
        FigureDocument(name=figure.name, value=figure.value, low=figure.low, high=figure.high, n=figure.n, note=figure.note) for figure in measured
    )
