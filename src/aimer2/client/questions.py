"""Ask a statistical question in one line, of data frames on this machine or of hospitals: the study that it takes is made here."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import pandas as pd

from aimer2.client.coordinator import Coordinator
from aimer2.client.run import Run
from aimer2.client.simulate import SiteData, simulate
from aimer2.client.tables import Tables
from aimer2.core.clock import SystemClock
from aimer2.core.disclosure import Disclosure
from aimer2.core.errors import NoResult
from aimer2.core.study import Study
from aimer2.core.study.formula import parse
from aimer2.core.task import SiteId
from aimer2.secure_aggregation.roster import MINIMUM
from aimer2.statistics import catalogue
from aimer2.study.events import Event, StudyFinished, StudyPaused, StudyStopped

_DAYS = 7
"""How long a question stays open."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Under which terms a question is asked; a hospital's rules look at these. ``why_not_secure``: without secure aggregation, and why."""

    purpose: str = "Interactive statistical question"
    ethics: str = "not stated"
    principal_investigator: str = "not stated"
    sites: Sequence[SiteId] = ()
    minimum_sites: int = MINIMUM
    minimum_patients: int = 10
    why_not_secure: str = ""
    expires: datetime.date | None = None
    seed: int = 1


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question. ``columns``: what is known of them, as `[[cohort.features]]` of a study; columns that only the formula names are numbers.
    ``rounds``: if not as many as the method takes for most data."""

    method: str
    formula: str
    dataset: str = "data"
    options: Mapping[str, Any] = field(default_factory=dict)
    columns: Sequence[Mapping[str, Any]] = ()
    rounds: int | None = None
    terms: Terms = field(default_factory=Terms)

    def study(self) -> Study:
        """The study that asks nothing but this. Raises BadStudy with all faults of form."""
        terms = self.terms
        expires = terms.expires or datetime.datetime.fromtimestamp(SystemClock().now(), datetime.UTC).date() + datetime.timedelta(days=_DAYS)
        rounds = self.rounds or catalogue.rounds(self.method)
        privacy = {"secure_aggregation": False, "why_not_secure": terms.why_not_secure} if terms.why_not_secure else {}
        return Study(
            name=f"question-{self.method.replace('_', '-')}"[:63],
            question=f"What does {self.method} answer to {self.formula}"[:1999] + "?",
            purpose=terms.purpose,
            ethics=terms.ethics,
            principal_investigator=terms.principal_investigator,
            expires=expires,
            seed=terms.seed,
            cohort={"dataset": self.dataset, "minimum_patients": terms.minimum_patients} | ({"features": self.columns} if self.columns else {}),
            analyses=[{"method": self.method, "formula": self.formula, "rounds": rounds, "options": dict(self.options)}],
            sites={"names": tuple(terms.sites), "minimum": terms.minimum_sites},
            privacy=privacy,
        )


def ask(
    method: str,
    formula: str,
    over: Mapping[SiteId, SiteData] | Coordinator,
    *,
    dataset: str = "data",
    columns: Sequence[Mapping[str, Any]] = (),
    terms: Terms | None = None,
    disclosure: Disclosure | None = None,
    **options: Any,
) -> Tables:
    """The answer of a method of `aimer2.statistics` to a formula, over these sites' data on this machine or at a coordinator's hospitals.

    ``over`` data frames, each row is a patient, categories are those of the frames, and ``disclosure`` is as for `simulate`. At hospitals the answer
    comes as soon as all have decided: at once where their rules approve such questions. ``columns``: what is known of columns, as
    `[[cohort.features]]` has it. ``options`` are the method's.

    Raises BadStudy with all faults of the question; NoResult where hospitals refuse, with their reasons.
    """
    if isinstance(over, Coordinator):
        asked = Asked(method=method, formula=formula, dataset=dataset, options=options, columns=columns, terms=terms or Terms())
        return answered(over.submit(asked.study()))
    given = terms or _simulated(len(over))
    asked = Asked(
        method=method,
        formula=formula,
        dataset=dataset,
        options=options,
        columns=columns or _columns_of(formula, over),
        terms=given,
    )
    return simulate(asked.study(), over, disclosure=disclosure).tables


def answered(run: Run, on_event: Callable[[Event], None] | None = None) -> Tables:
    """Waits for the answers of a submitted question. Raises NoResult where there will be none, with the reason."""
    for event in run.events():
        if on_event is not None:
            on_event(event)
        if isinstance(event, StudyPaused | StudyStopped):
            raise NoResult(f"The question has no answer: {event.reason}")
        if isinstance(event, StudyFinished):
            break
    return run.tables()


def _simulated(sites: int) -> Terms:
    if sites >= MINIMUM:
        return Terms()
    return Terms(minimum_sites=min(sites, 1), why_not_secure=f"a simulation of {sites} site(s), and secure aggregation needs {MINIMUM}")


def _columns_of(formula: str, over: Mapping[SiteId, SiteData]) -> list[Mapping[str, Any]]:
    """Categories as the frames have them: in the order of their first frame, and in no other than the formula names them."""
    try:
        named = parse(formula).variables
    except ValueError:
        # which the study tells, with its place
        return []
    given = {variable.name for variable in named if variable.levels}
    columns: list[Mapping[str, Any]] = []
    for name in dict.fromkeys(variable.name for variable in named):
        levels: dict[str, None] = {}
        for data in over.values():
            if isinstance(data, pd.DataFrame) and name in data.columns:
                levels |= dict.fromkeys(_levels(data[name]))
        if levels and name not in given:
            columns.append({"name": name, "kind": "category", "categories": tuple(levels)})
        elif name not in given:
            columns.append({"name": name})
    return columns


def _levels(series: pd.Series[Any]) -> Sequence[str]:
    if pd.api.types.is_bool_dtype(series.dtype):
        return ("false", "true")
    return tuple(map(str, series.cat.categories)) if isinstance(series.dtype, pd.CategoricalDtype) else ()
