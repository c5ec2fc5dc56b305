"""What federation was worth, and what privacy costs: for each site its own model alone, the federated one, and one trained on all data pooled;
and the federated one again at other ε.

Only somebody who may pool all the data can draw these comparisons: the demo, and research on public data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import numpy as np

from aimer2.client.simulate import simulate
from aimer2.connectors.table import Table
from aimer2.core.dataset import Samples
from aimer2.core.protocols import Learner
from aimer2.core.random import stream
from aimer2.core.study import Privacy, Study
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
class Price:
    """The federated model at one ε (None: without differential privacy), on all sites' held-out patients, without noise in the figures."""

    epsilon: float | None
    figures: tuple[FigureDocument, ...]


@final
@dataclass(frozen=True, slots=True)
class _Trained:
    learner: Learner
    moments: Moments


def compare(study: Study, tables: Mapping[SiteId, Table], federated: Mapping[SiteId, Sequence[FigureDocument]], folder: Path = Path()) -> list[Line]:
    """Three lines per site. Local and pooled models take as many steps as the federated one, without noise; all sites keep their split."""
    study = _in_the_clear(study, None)
    parts = {site: split(design(study.cohort, table), study.evaluation.held_out) for site, table in sorted(tables.items())}
    pooled = _train(study, _together([train for train, _ in parts.values()]), "pooled", folder)
    lines = []
    for site, (train, held_out) in parts.items():
        local = _train(study, train, site, folder)
        measured = {"local only": _measure(study, local, held_out), "federated": tuple(federated[site]), "pooled": _measure(study, pooled, held_out)}
        lines += [Line(site, arm, len(train), len(held_out), found) for arm, found in measured.items()]  # type: ignore[arg-type]
    return lines


def price(study: Study, tables: Mapping[SiteId, Table], epsilons: Sequence[float | None], folder: Path = Path()) -> list[Price]:
    """The study simulated at each ε; its noise comes from the system's secure source, so no two runs are the same."""
    held_out = _together([split(design(study.cohort, table), study.evaluation.held_out)[1] for _, table in sorted(tables.items())])
    prices = []
    for epsilon in epsilons:
        variant = _in_the_clear(study, epsilon)
        model = simulate(variant, tables, folder=folder).model
        moments = own_moments(held_out)
        rows = complete(held_out, study.cohort, moments)
        files = {} if study.model.code is None else {study.model.code: folder / study.model.code}
        learner = make_learner(_in_the_clear(study, None), feature_shape=rows.feature_shape, files=files)
        learner.load(model)
        prices.append(Price(epsilon, _measure(study, _Trained(learner, moments), held_out)))
    return prices


def _in_the_clear(study: Study, epsilon: float | None) -> Study:
    """The study for somebody who has all the data anyway."""
    asked = study.privacy.differential_privacy
    noise = None if asked is None or epsilon is None else asked.model_copy(update={"epsilon": epsilon})
    if noise is not None and noise.level == "site":
        return study.model_copy(update={"privacy": Privacy(differential_privacy=noise)})
    terms = Privacy(secure_aggregation=False, why_not_secure="All data are in one process.", differential_privacy=noise)
    return study.model_copy(update={"privacy": terms})


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
    images = None if first.images is None else np.concatenate([np.asarray(part.images) for part in parts])
    return Design(first.names, first.numeric, features, targets, patient, images=images)
