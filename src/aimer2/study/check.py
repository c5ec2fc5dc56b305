"""All faults of a study before any site is asked: what it names must exist, and what it promises must be possible."""

from __future__ import annotations

import ast
from pathlib import Path

from aimer2.algorithms import catalogue
from aimer2.algorithms.aggregators import catalogue as aggregators
from aimer2.algorithms.personal import Personal
from aimer2.core.clock import Clock
from aimer2.core.errors import BadStudy, Fault
from aimer2.core.study import Study
from aimer2.learners.catalogue import faults as learner_faults
from aimer2.metrics import figures
from aimer2.study import differential_privacy


def check(study: Study, folder: Path, clock: Clock) -> list[Fault]:
    """Every fault of a study whose form is right (`Study` has told the faults of form); ``folder`` holds its code. Empty: it can be submitted."""
    return [
        *_terms(study, clock),
        *differential_privacy.faults(study),
        *_method(study),
        *_aggregator(study),
        *learner_faults(study),
        *_metrics(study),
        *_sites(study),
        *_code(study, folder),
    ]


def refuse_faults(study: Study, folder: Path, clock: Clock) -> None:
    """Raises BadStudy with all faults, if there are any."""
    if faults := check(study, folder, clock):
        raise BadStudy(faults)


def _terms(study: Study, clock: Clock) -> list[Fault]:
    found = []
    if study.expires_at < clock.now():
        found.append(Fault("expires", "lies in the past", "give a later day"))
    if study.privacy.secure_aggregation:
        found.append(Fault("privacy.secure_aggregation", "is not available in this version", "leave it out, and tell the sites so in `purpose`"))
    return found


def _method(study: Study) -> list[Fault]:
    name, found = study.method.name, []
    try:
        method = catalogue.make(name, study.method.rounds, study.method.parameters)
    except BadStudy as error:
        return list(error.faults)
    if not catalogue.is_additive(name):
        if study.privacy.secure_aggregation:
            problem = f"{name} hands single models on, and secure aggregation shows nobody a single one"
            found.append(Fault("method.name", problem, "take a method that adds up, or leave `privacy.secure_aggregation` out"))
        if study.method.aggregator != "weighted_mean":
            found.append(Fault("method.aggregator", f"{name} asks one site a round, so there is nothing to compare", "leave it out"))
    if isinstance(method, Personal) and study.evaluation.held_out == 0:
        found.append(Fault("evaluation.held_out", f"is 0, but {name} measures the sites' own models", "hold out a part, for example 0.2"))
    framework, known = study.model.framework, catalogue.frameworks(name)
    if known and framework not in known:
        found.append(Fault("method.name", f"{name} works on no {framework} model", f"use framework = {' or '.join(map(repr, known))}"))
    return found


def _aggregator(study: Study) -> list[Fault]:
    name, found = study.method.aggregator, []
    try:
        aggregator = aggregators.make(name, study.sites.block, study.method.aggregator_parameters)
    except BadStudy as error:
        return list(error.faults)
    if study.sites.needed < aggregator.sites_needed:
        where = "sites.minimum" if study.sites.quorum is None else "sites.quorum"
        problem = f"{name} with these parameters needs {aggregator.sites_needed} answers a round, `{where}` asks for {study.sites.needed}"
        found.append(Fault("method.aggregator", problem, f"set `{where}` to {aggregator.sites_needed} or more, or take another aggregator"))
    if study.privacy.secure_aggregation and not aggregator.additive:
        problem = f"{name} compares the sites' updates one by one, and secure aggregation shows nobody a single one"
        found.append(Fault("method.aggregator", problem, "take weighted_mean, or leave `privacy.secure_aggregation` out"))
    return found


def _metrics(study: Study) -> list[Fault]:
    kind = study.cohort.target.kind
    unknown = figures.validate(kind, study.evaluation.metrics)
    found = [
        Fault("evaluation.metrics", f"{name!r} is no metric of a {kind} target", f"use some of: {', '.join(figures.available(kind))}")
        for name in unknown
    ]
    if study.evaluation.held_out == 0 and (study.evaluation.metrics or study.evaluation.release_per_site):
        found.append(Fault("evaluation.held_out", "is 0, so nothing can be measured", "hold out a part, for example 0.2"))
    return found


def _sites(study: Study) -> list[Fault]:
    sites = study.sites
    found = []
    double = sorted({name for name in sites.names if sites.names.count(name) > 1})
    if double:
        found.append(Fault("sites.names", f"named twice: {', '.join(double)}", "name each once"))
    if sites.names and sites.minimum > len(sites.names):
        found.append(Fault("sites.minimum", f"is {sites.minimum}, but {len(sites.names)} sites are named", "lower it or name more sites"))
    if sites.quorum is not None and sites.names and sites.quorum > len(sites.names):
        found.append(Fault("sites.quorum", f"is {sites.quorum}, but {len(sites.names)} sites are named", "lower it or name more sites"))
    return found


def _code(study: Study, folder: Path) -> list[Fault]:
    """The code is read, not run: it runs only where it is confined."""
    if study.model.code is None:
        return []
    place = f"model.code ({study.model.code})"
    try:
        module = ast.parse((folder / study.model.code).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [Fault(place, "is not beside the study", "put the file there")]
    except (SyntaxError, ValueError):
        return [Fault(place, "is not Python that can be parsed", "correct the file")]
    if not any(isinstance(node, ast.FunctionDef) and node.name == "build" for node in module.body):
        return [Fault(place, "has no function `build`", "define `def build(features, classes, **options)`")]
    return []
