"""A version of a model, measured over data on this machine as a study between hospitals would measure it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import replace

from aimer2.client.simulate import Simulation, SiteData, simulate
from aimer2.core.clock import SystemClock
from aimer2.core.errors import NotFound
from aimer2.core.task import SiteId
from aimer2.repository.evaluation import Terms, evaluation_of
from aimer2.repository.version import Version
from aimer2.secure_aggregation.roster import MINIMUM
from aimer2.study.events import Event

_NOBODY_ASKED = "none needed: data on this machine"


def evaluate(
    version: Version,
    sites: Mapping[SiteId, SiteData],
    *,
    terms: Terms | None = None,
    patient: str | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Simulation:
    """Measures a pulled version over these sites' data: ``figures`` are pooled over all of them. ``sites``, ``patient``, ``on_event`` as for
    `aimer2.simulate`; code of the version's lies in its folder. Between hospitals the same study is submitted: `Coordinator.evaluate`.

    Raises NotFound where its weights are not at hand, BadStudy where the version cannot be measured so, and what `aimer2.simulate` raises.
    """
    if version.weights is None:
        raise NotFound("The weights of this version are not at hand.", remedy="`aimer2 model pull` brings them.")
    asked = terms or Terms(ethics=_NOBODY_ASKED, principal_investigator=version.study.principal_investigator, expires=_tomorrow())
    if len(sites) < MINIMUM and not asked.why_not_secure:
        asked = replace(asked, why_not_secure=f"a simulation of {len(sites)} site(s), and secure aggregation needs {MINIMUM}")
    study = evaluation_of(version, replace(asked, sites=tuple(sorted(sites))))
    return simulate(study, sites, folder=version.weights.parent, patient=patient, on_event=on_event)


def _tomorrow() -> datetime.date:
    return datetime.datetime.fromtimestamp(SystemClock().now(), datetime.UTC).date() + datetime.timedelta(days=1)
