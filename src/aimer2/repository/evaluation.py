"""A version measured on hospitals' patients by a study of its own, which is written here from the version."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from aimer2.core.study import Study
from aimer2.core.task import SiteId
from aimer2.repository.card import measured_at
from aimer2.repository.version import WEIGHTS, Version

_NAMED = 63


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What an evaluation says that does not follow from the version. ``dataset``, ``metrics`` and ``minimum_patients``: if others than in the study
    that made it; ``sites``: if not all that are enrolled. ``patients``: "all", "held-out" (those whom a training at the site did not see); None: all,
    unless the model was trained at one of the sites.
    """

    ethics: str
    principal_investigator: str
    expires: datetime.date
    purpose: str = "To know how good the model is on these hospitals' patients"
    name: str | None = None
    dataset: str | None = None
    sites: Sequence[SiteId] = ()
    minimum_sites: int | None = None
    minimum_patients: int | None = None
    metrics: Sequence[str] = ()
    patients: Literal["all", "held-out"] | None = None
    release_per_site: bool = False
    why_not_secure: str = ""


def evaluation_of(version: Version, terms: Terms) -> Study:
    """The study that measures this version: columns, preparation, target and architecture are those that it was trained with. Raises BadStudy."""
    made = version.study.model_dump()
    cohort = made["cohort"] | {"group": None}
    cohort |= {name: value for name in ("dataset", "minimum_patients") if (value := getattr(terms, name)) is not None}
    given: dict[str, object] = {} if terms.minimum_sites is None else {"minimum": terms.minimum_sites}
    if not given and terms.sites:
        given["minimum"] = min(2, len(terms.sites))
    privacy = {"secure_aggregation": False, "why_not_secure": terms.why_not_secure} if terms.why_not_secure else {}
    return Study(
        name=terms.name or f"{version.study.name[: _NAMED - len('-evaluation')]}-evaluation",
        question=f"How good is the model of '{version.study.name}' on these patients? It was made to answer: {version.study.question}"[:2000],
        purpose=terms.purpose,
        ethics=terms.ethics,
        principal_investigator=terms.principal_investigator,
        expires=terms.expires,
        requires=made["requires"],
        cohort=cohort,
        evaluates=version.digest,
        model=made["model"] | {"weights": WEIGHTS},
        training=made["training"],
        sites={"names": tuple(terms.sites), "deadline_seconds": version.study.sites.deadline_seconds} | given,
        evaluation={
            "held_out": _share(version, terms),
            "metrics": tuple(terms.metrics) or made["evaluation"]["metrics"],
            "horizons": made["evaluation"].get("horizons", ()),
            "release_per_site": terms.release_per_site,
        },
        privacy=privacy,
    )


def _share(version: Version, terms: Terms) -> float:
    """Where the model was trained on all patients there are none that it has not seen, so all are measured, and the card says so."""
    unseen = bool(terms.sites) and not set(terms.sites) & set(measured_at(version.result))
    if terms.patients == "all" or (terms.patients is None and unseen):
        return 1.0
    return version.study.evaluation.held_out or 1.0
