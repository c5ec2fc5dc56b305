"""What federation was worth: for each site its own model alone, the federated one, and one trained on all data pooled.

Only somebody who may pool all the data can draw this comparison: the demo, and research on public data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import numpy as np

from aimer2.connectors.table import Table
from aimer2.core.dataset import Samples
from aimer2.core.protocols import Learner
from aimer2.core.random import stream
from aimer2.core.study import Study
from aimer2.core.task import FigureDocument, SiteId
from aimer2.learners.catalogue import make_learner
from aimer2.metrics.figures import figures
from aimer2.study.cohort import Design, Moments, complete, design, own_moments, split
from aimer2.study.evaluation import documents
from aimer2.study.pack import initialise

Arm = Literal["local only", "federated", "pooled"]


@final
@dataclass(frozen=True, slots=True)
class Line:
    """One model at one site, measured on that site's held-out patients."""

    site: SiteId
    arm: Arm
    rows: int
    held_out: int
    figures: tuple[FigureDocument, ...]


@final
@dataclass(frozen=True, slots=True)
class _Trained:
    learner: Learner
    moments: Moments


def compare(
    study: Study, tables: Mapping[SiteId, Table], federated: Mapping[SiteId, Sequence[FigureDocument]], folder: Path = Path()
) -> list[Line]:
    """Three lines per site. Local and pooled models take as many passes over their rows as the federated one; all sites keep their split."""
    parts = {site: split(design(study.cohort, table), study.evaluation.held_out) for site, table in sorted(tables.items())}
    pooled = _train(study, _together([train for train, _ in parts.values()]), "pooled", folder)
    lines = []
    for site, (train, held_out) in parts.items():
        local = _train(study, train, site, folder)
        measured = {"local only": _measure(study, local, held_out), "federated": tuple(federated[site]), "pooled": _measure(study, pooled, held_out)}
        lines += [Line(site, arm, len(train), len(held_out), found) for arm, found in measured.items()]  # type: ignore[arg-type]
    return lines


def _train(study: Study, train: Design, name: str, folder: Path) -> _Trained:
    moments = own_moments(train)
    rows = complete(train, study.cohort, moments)
    files = {} if study.model.code is None else {study.model.code: folder / study.model.code}
    learner = make_learner(study, feature_shape=rows.feature_shape, files=files)
    initialise(learner, study)
    for number in range(1, study.method.rounds + 1):
        learner.fit(
            rows,
            steps=study.training.steps(len(rows)),
            batch_size=study.training.batch_size,
            round_number=number,
            rng=stream(study.seed, "comparison", name, number),
        )
    return _Trained(learner, moments)


def _measure(study: Study, trained: _Trained, held_out: Design) -> tuple[FigureDocument, ...]:
    rows: Samples = complete(held_out, study.cohort, trained.moments)
    return documents(figures(study.cohort.target.kind, trained.learner.evaluate(rows), study.metrics, study.parts))


def _together(parts: Sequence[Design]) -> Design:
    first = parts[0]
    features, targets, patient = (np.concatenate([getattr(part, name) for part in parts]) for name in ("features", "targets", "patient"))
    return Design(first.names, first.numeric, features, targets, patient)
