"""The record that a study ends with: who took part in which round, who did not and why, the figures, the lineage of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from aimer2.core import tree
from aimer2.core.clock import rfc3339
from aimer2.core.table import Table
from aimer2.core.task import ITERATED, BlobRef, SiteId
from aimer2.core.tree import Tree
from aimer2.messages.package import Package
from aimer2.privacy.disclosure import coarse
from aimer2.study import diagnosis
from aimer2.study.cohort import design_names
from aimer2.study.events import Event, RoundFinished, StudyStarted
from aimer2.study.recommendation import averages, recommend
from aimer2.study.statement import differential_privacy, guarantee, secrecy, secure_aggregation


def build_result(
    package: Package, digest: str, model: BlobRef, events: Sequence[Event], *, tables: Sequence[Table] = (), moments: Tree | None = None
) -> dict[str, Any]:
    """The document that the coordinator signs; it holds sums over sites and what sites released, nothing of a single patient.

    ``moments``: the sites' common means and deviations (`aimer2.statistics.moments`), without which the model cannot be used elsewhere.
    """
    study = package.study
    rounds = [event for event in events if isinstance(event, RoundFinished)]
    started = next((event.time for event in events if isinstance(event, StudyStarted)), None)
    measured = [event for event in rounds if event.figures]
    last = measured[-1] if measured else None
    private, secret = differential_privacy(study, events, len(package.roster)), secure_aggregation(package, rounds)
    return (
        {
            "format": 1,
            "study": digest,
            "name": study.name,
            "question": study.question,
            "principal_investigator": study.principal_investigator,
            "ethics": study.ethics,
            "method": _method(package),
            "started": None if started is None else rfc3339(started),
            "finished": rfc3339(rounds[-1].time) if rounds else None,
            "sites": _participation(package, rounds),
            "rounds": [_round(event) for event in rounds],
            "bytes_received": sum(event.bytes_received for event in rounds),
            "bytes_sent": sum(event.bytes_sent for event in rounds),
            "figures": [] if last is None else [figure.model_dump() for figure in last.figures],
            "released": {site: [f.model_dump() for f in figures] for event in rounds for site, figures in event.released.items()},
            "preprocessing": _preprocessing(package, moments),
            "environment": {"aimer2": version("aimer2"), "requires": dict(study.requires)},
            "privacy": {
                "secure_aggregation": secret,
                "why_not_secure": study.privacy.why_not_secure,
                "differential_privacy": private,
                "statement": f"{secrecy(secret)} {guarantee(private)}",
            },
            "lineage": {
                "initial": package.initial.sha256,
                "code": {name: ref.sha256 for name, ref in package.files.items()},
                "models": [event.model.sha256 for event in rounds if event.model is not None],
            },
            "model": model.model_dump(),
        }
        | _answers(package, tables)
        | _diagnosis(package, rounds)
        | _evaluation(package)
    )


def _method(package: Package) -> dict[str, Any]:
    study = package.study
    if study.analyses or study.evaluates is not None:
        return {"name": ", ".join(study.methods), "rounds": study.rounds, "parameters": {}, "version": package.method_version}
    return study.method.model_dump(mode="json") | {"version": package.method_version}


def _diagnosis(package: Package, rounds: Sequence[RoundFinished]) -> dict[str, Any]:
    """Of a trial: the means of its rounds' figures, and what they speak for."""
    if package.study.analyses or package.study.method.name != diagnosis.NAME:
        return {}
    told = averages(rounds)
    return {"diagnosis": {"measured": told, "recommendation": recommend(package.study, told).document()}}


def _evaluation(package: Package) -> dict[str, Any]:
    """Of a study that measured a model: whose, and on which patients of the sites' data sets (``held_out`` 1: all)."""
    study = package.study
    if study.evaluates is None:
        return {}
    return {"evaluation": {"of": study.evaluates, "dataset": study.cohort.dataset, "held_out": study.evaluation.held_out}}


def _answers(package: Package, tables: Sequence[Table]) -> dict[str, Any]:
    """Of a study that asks statistical questions: the questions as they were approved, and the answers."""
    if not package.study.analyses:
        return {}
    asked = [analysis.model_dump(mode="json") | {"version": package.versions[analysis.method]} for analysis in package.study.analyses]
    return {"analyses": asked, "tables": [table.model_dump(mode="json") for table in tables]}


def _preprocessing(package: Package, moments: Tree | None) -> dict[str, Any] | None:
    """How a row becomes what the model reads: its inputs in order, the rules, and the numbers that the rules need; counts as they may be told.

    None where the study has left no model of its own.
    """
    cohort = package.study.cohort
    if package.study.analyses or package.study.evaluates is not None:
        return None
    rules = {"inputs": list(design_names(cohort)), "missing": cohort.missing, "standardise": cohort.standardise}
    if moments is None:
        return rules | {"moments": None}
    told = {name: [float(value) for value in tree.load(moments[name]).ravel()] for name in ("mean", "deviation")}
    count = [coarse(int(value)) for value in tree.load(moments["count"]).ravel()]
    return rules | {"moments": {"count": count, **told}}


def _participation(package: Package, rounds: Sequence[RoundFinished]) -> dict[SiteId, Mapping[str, Any]]:
    """Every site that was asked: in how many rounds of the method it took part (of an evaluation: in the one that measured), each of its absences
    with the reason, and what it took and gave."""
    counted = ITERATED if package.study.evaluates is None else ("final",)
    training = [event for event in rounds if event.stage in counted]
    return {
        site: {
            "rounds": sum(site in event.took_part for event in training),
            "absences": [
                {"stage": event.stage, "round": event.round_number} | absence.model_dump(exclude={"site"})
                for event in rounds
                for absence in event.absent
                if absence.site == site
            ],
            "bytes_received": sum(event.traffic[site].received for event in rounds if site in event.traffic),
            "bytes_sent": sum(event.traffic[site].sent for event in rounds if site in event.traffic),
        }
        for site in sorted(package.roster)
    }


def _round(event: RoundFinished) -> dict[str, Any]:
    return {
        "stage": event.stage,
        "round": event.round_number,
        "attempt": event.attempt,
        "seconds": round(event.seconds, 4),
        "took_part": list(event.took_part),
        "absent": [absence.model_dump() for absence in event.absent],
        "figures": [figure.model_dump() for figure in event.figures],
        "bytes_received": event.bytes_received,
        "bytes_sent": event.bytes_sent,
        "model": None if event.model is None else event.model.sha256,
    }
