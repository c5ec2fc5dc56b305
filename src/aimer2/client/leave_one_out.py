"""Leave-one-hospital-out validation: each hospital in turn takes no part in training, and the model is measured on all its patients.

It answers what a hospital that was never part of a study can expect of its model. Steyerberg and Harrell 2016, "Prediction models need appropriate
internal, internal-external, and external validation", call it internal-external validation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.table import Table as Shown

from aimer2.client.figures import text_of
from aimer2.client.simulate import SiteData, simulate
from aimer2.connectors.frame import from_frame
from aimer2.connectors.table import Table
from aimer2.core.dataset import Dataset, Samples
from aimer2.core.errors import BadInput
from aimer2.core.study import Study
from aimer2.core.task import FigureDocument, SiteId
from aimer2.learners.catalogue import make_learner
from aimer2.metrics.figures import figures
from aimer2.study import cohort
from aimer2.study.evaluation import documents
from aimer2.study.kinds import require_training


@final
@dataclass(frozen=True, slots=True)
class LeftOut:
    """One hospital: the figures of the others' model on all its rows."""

    site: SiteId
    rows: int
    figures: tuple[FigureDocument, ...]


@final
@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """All of them, in the order of their names."""

    study: Study
    sites: tuple[LeftOut, ...]

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "study": self.study.name,
            "method": self.study.method.model_dump(mode="json"),
            "sites": {one.site: {"rows": one.rows, "figures": [figure.model_dump() for figure in one.figures]} for one in self.sites},
        }

    def __rich__(self) -> Shown:
        shown = Shown("Left out", "rows", *self.study.metrics, box=None, title=f"{self.study.name}: trained without the hospital, measured on it")
        for one in self.sites:
            shown.add_row(one.site, str(one.rows), *map(text_of, one.figures))
        return shown


def leave_one_out(
    study: Study,
    sites: Mapping[SiteId, SiteData],
    *,
    folder: Path = Path(),
    patient: str | None = None,
    on_site: Callable[[SiteId], None] | None = None,
) -> LeaveOneOut:
    """Runs the study once per hospital without it, in this process; ``sites``, ``folder`` and ``patient`` as for `aimer2.simulate`.

    A left-out hospital is prepared as a new one would be: with the means and deviations of the others' training patients, or with its own where
    each site standardises for itself. Of a personal method it is the common model that is measured: a new hospital has no other.

    Raises BadInput for fewer than three sites, NotAvailable for a study that trains no model, and what `aimer2.simulate` raises.
    """
    require_training(study, "Leaving one hospital out")
    if len(sites) < 3:
        raise BadInput("Leave-one-out needs three sites or more: two must be left to train together.")
    prepared = {site: _table(site, data, patient) for site, data in sorted(sites.items())}
    found = []
    for site, data in prepared.items():
        if on_site is not None:
            on_site(site)
        others = {name: rows for name, rows in prepared.items() if name != site}
        model = simulate(_without(study, len(others)), others, folder=folder).model
        found.append(_measured(study, site, model, others, data, folder))
    return LeaveOneOut(study, tuple(found))


def _table(site: SiteId, data: SiteData, patient: str | None) -> Table | Dataset:
    if not isinstance(data, pd.DataFrame):
        return data
    return from_frame(data, split_key=hashlib.sha256(site.encode()).digest(), patient=patient)


def _without(study: Study, left: int) -> Study:
    """The study with as many sites as are left, added up in the clear: among so few a sum in secret would only cost time."""
    changed = study.model_dump()
    changed["sites"] |= {"names": (), "minimum": min(study.sites.minimum, left)}
    changed["sites"]["quorum"] = None if study.sites.quorum is None else min(study.sites.quorum, left)
    changed["privacy"] |= {"secure_aggregation": False, "why_not_secure": "all data lie in this one process", "group_size": None}
    return Study(**changed)


def _measured(
    study: Study, site: SiteId, model: Mapping[str, npt.NDArray[Any]], others: Mapping[SiteId, Table | Dataset], data: Table | Dataset, folder: Path
) -> LeftOut:
    rows = _rows(study, others, data) if isinstance(data, Table) else data
    files = {} if study.model.code is None else {study.model.code: folder / study.model.code}
    # under differential privacy too without noise on the figures: these rows are the caller's own
    plain = study.model_copy(update={"privacy": study.privacy.model_copy(update={"differential_privacy": None})})
    learner = make_learner(plain, feature_shape=rows.feature_shape, files=files)
    learner.load(model)
    return LeftOut(site, len(rows), documents(figures(study.cohort.target.kind, learner.evaluate(rows), study.metrics, study.parts)))


def _rows(study: Study, others: Mapping[SiteId, Table | Dataset], data: Table) -> Samples:
    own = cohort.design(study.cohort, data)
    if not study.cohort.common_moments:
        return cohort.complete(own, study.cohort, cohort.own_moments(own))
    parts = [cohort.split(cohort.design(study.cohort, table), study.evaluation.held_out)[0] for table in others.values() if isinstance(table, Table)]
    first, *_ = parts
    pooled = cohort.Design(
        first.names,
        first.numeric,
        np.concatenate([part.features for part in parts]),
        np.concatenate([np.asarray(part.targets) for part in parts]),
        np.concatenate([part.patient for part in parts]),
    )
    return cohort.complete(own, study.cohort, cohort.own_moments(pooled))
