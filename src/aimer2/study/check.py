"""All faults of a study before any site is asked: what it names must exist, and what it promises must be possible."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

from aimer2.algorithms import catalogue
from aimer2.algorithms.aggregators import catalogue as aggregators
from aimer2.algorithms.personal import Personal
from aimer2.core.clock import Clock
from aimer2.core.errors import BadStudy, Fault
from aimer2.core.said import say
from aimer2.core.study import Study
from aimer2.learners.catalogue import faults as learner_faults
from aimer2.metrics import figures
from aimer2.secure_aggregation.roster import MINIMUM
from aimer2.study import bounding, compressing, differential_privacy, evaluating, seams, trees, weights
from aimer2.study.analysing import analyses_of

_NOT_SECURE = say("set `privacy.secure_aggregation` to false and say why in `privacy.why_not_secure`")


def check(study: Study, folder: Path, clock: Clock) -> list[Fault]:
    """Every fault of a study whose form is right (`Study` has told the faults of form); ``folder`` holds its code. Empty: it can be submitted."""
    if study.analyses:
        return [*_terms(study, clock), *promises(study), *_sites(study)]
    if study.evaluates is not None:
        return [*faults_without_files(study, clock), *_code(study, folder), *evaluating.faults_of_version(study, folder)]
    return [
        *_terms(study, clock),
        *promises(study),
        *_steps(study),
        *learner_faults(study),
        *seams.faults(study),
        *trees.faults(study),
        *_metrics(study),
        *_sites(study),
        *_code(study, folder),
        *weights.faults(study, folder),
    ]


def faults_without_files(study: Study, clock: Clock) -> list[Fault]:
    """Those of `check` that need none of the files beside the study: for a coordinator, which opens none of them."""
    if study.analyses:
        return check(study, Path(), clock)
    return [*_terms(study, clock), *method_faults(study), *learner_faults(study), *_metrics(study), *_sites(study)]


def promises(study: Study) -> list[Fault]:
    """What the coordinator that conducts it must keep, and looks at again: secrecy of updates, method, aggregator, differential privacy."""
    if study.analyses:
        return [*_secrecy(study), *_groups(study), *_analyses(study)]
    if study.evaluates is not None:
        return [*_secrecy(study), *evaluating.faults(study), *differential_privacy.faults(study)]
    kept = [bounding.faults, compressing.faults, differential_privacy.faults, trees.unprotected]
    return [*_secrecy(study), *_method(study), *_aggregator(study), *_groups(study), *(fault for faults in kept for fault in faults(study))]


def method_faults(study: Study) -> list[Fault]:
    """Whether the method goes with the study's model, training, terms and framework: what needs none of the files beside the study."""
    if study.evaluates is not None:
        return promises(study)
    return [*promises(study), *_steps(study), *seams.faults(study), *trees.faults(study)]


def refuse_faults(study: Study, folder: Path, clock: Clock) -> None:
    """Raises BadStudy with all faults, if there are any."""
    if faults := check(study, folder, clock):
        raise BadStudy(faults)


def _terms(study: Study, clock: Clock) -> list[Fault]:
    found = []
    if study.expires_at < clock.now():
        found.append(Fault("expires", "lies in the past", "give a later day"))
    return found


def _secrecy(study: Study) -> list[Fault]:
    secure, why = study.privacy.secure_aggregation, study.privacy.why_not_secure
    if not secure and not why:
        problem = "is missing: without secure aggregation the coordinator sees each hospital's update"
        return [Fault("privacy.why_not_secure", problem, "say in a sentence why that must be, or leave `secure_aggregation = false` out")]
    if secure and why:
        return [
            Fault(
                "privacy.why_not_secure",
                "is given, but the study has secure aggregation",
                say("leave it out, or {not_secure}", not_secure=_NOT_SECURE),
            )
        ]
    if secure and 0 < len(study.sites.names) < MINIMUM:
        problem = say(
            "needs at least {minimum} sites, and `sites.names` has {count}: of two, each could work out the other's update",
            minimum=MINIMUM,
            count=len(study.sites.names),
        )
        return [Fault("privacy.secure_aggregation", problem, say("name more sites, or {not_secure}", not_secure=_NOT_SECURE))]
    return []


def _analyses(study: Study) -> list[Fault]:
    try:
        analyses_of(study)
    except BadStudy as error:
        return list(error.faults)
    return []


def _method(study: Study) -> list[Fault]:
    name, found = study.method.name, []
    try:
        method = catalogue.make(name, study.method.rounds, study.method.parameters)
    except BadStudy as error:
        return list(error.faults)
    if not catalogue.is_additive(name):
        if study.privacy.secure_aggregation:
            problem = say("{name} hands single models on, and secure aggregation shows nobody a single one", name=name)
            found.append(Fault("method.name", problem, say("take a method that adds up, or {not_secure}", not_secure=_NOT_SECURE)))
        if study.method.aggregator != "weighted_mean":
            found.append(Fault("method.aggregator", say("{name} asks one site a round, so there is nothing to compare", name=name), "leave it out"))
    group, grouping = study.cohort.group, getattr(method, "by_group", False)
    if grouping and group is None:
        found.append(
            Fault("cohort.group", say("is missing, and {name} is for the worst of several groups of patients", name=name), "name a category")
        )
    if group is not None and not grouping and not getattr(method, "may_group", False):
        found.append(Fault("cohort.group", say("is given, and {name} looks at no groups", name=name), "leave it out, or take worst_group"))
    if isinstance(method, Personal) and study.evaluation.held_out == 0:
        found.append(
            Fault("evaluation.held_out", say("is 0, but {name} measures the sites' own models", name=name), "hold out a part, for example 0.2")
        )
    return found


_PLAIN_STEPS = {
    "fednova": "the norm that it divides by is that of plain gradient descent; its own momentum is method.parameters.momentum",
    "fedsgd": "its one step a round is along the gradient itself, in which an optimiser's memory has no part",
}
_COUNTED_STEPS = {
    "fednova": "divides by the steps that a site takes",
    "scaffold": "divides by the steps that a site takes",
    "fedsgd": "takes one step a round",
}
"""Methods whose numbers rest on the form or on the number of a site's steps, and how."""


def _steps(study: Study) -> list[Fault]:
    name, training, found = study.method.name, study.training, []
    if reason := _PLAIN_STEPS.get(name):
        if training.optimiser != "sgd":
            found.append(
                Fault(
                    "training.optimiser",
                    say("is '{optimiser}', but {name} needs 'sgd': {reason}", optimiser=training.optimiser, name=name, reason=reason),
                    "set it to 'sgd'",
                )
            )
        if training.momentum:
            found.append(
                Fault(
                    "training.momentum",
                    say("is {momentum}, but {name} needs 0: {reason}", momentum=f"{training.momentum:g}", name=name, reason=reason),
                    "leave it out",
                )
            )
    if training.patience is not None and name in _COUNTED_STEPS:
        problem = say("would end a site's training early, but {name} {counted_steps}", name=name, counted_steps=_COUNTED_STEPS[name])
        found.append(Fault("training.patience", problem, "leave it out, or take a method that counts no steps, such as fedavg, fedprox or feddyn"))
    return found


def _aggregator(study: Study) -> list[Fault]:
    name, found = study.method.aggregator, []
    try:
        aggregator = aggregators.make(name, study.sites.block, study.method.aggregator_parameters)
    except BadStudy as error:
        return list(error.faults)
    if study.privacy.group_size is None and study.sites.needed < aggregator.sites_needed:
        where = "sites.minimum" if study.sites.quorum is None else "sites.quorum"
        problem = say(
            "{name} with these parameters needs {sites_needed} answers a round, `{where}` asks for {needed}",
            name=name,
            sites_needed=aggregator.sites_needed,
            where=where,
            needed=study.sites.needed,
        )
        found.append(
            Fault(
                "method.aggregator",
                problem,
                say("set `{where}` to {sites_needed} or more, or take another aggregator", where=where, sites_needed=aggregator.sites_needed),
            )
        )
    if study.privacy.secure_aggregation and study.privacy.group_size is None and not aggregator.additive:
        problem = say("{name} compares the sites' updates one by one, and secure aggregation shows nobody a single one", name=name)
        remedy = say("let it compare the sums of groups of sites (`privacy.group_size`), take weighted_mean, or {not_secure}", not_secure=_NOT_SECURE)
        found.append(Fault("method.aggregator", problem, remedy))
    return found


def _groups(study: Study) -> list[Fault]:
    name, found = study.method.aggregator, []
    if study.privacy.group_size is None or name not in aggregators.names():
        return []
    if not study.privacy.secure_aggregation:
        found.append(Fault("privacy.group_size", "is given, but without secure aggregation the coordinator sees every update", "leave it out"))
    elif aggregators.example(name).additive:
        problem = say("is given, but {name} needs only the sum of all: groups would show the coordinator smaller sums for nothing", name=name)
        found.append(Fault("privacy.group_size", problem, "leave it out, or take an aggregator that compares, such as median"))
    try:
        return found + (too_few_groups(study, len(study.sites.names)) if study.sites.names else [])
    except BadStudy:
        return found  # its parameters are told with the aggregator


def too_few_groups(study: Study, sites: int) -> list[Fault]:
    """Where so many sites make fewer groups than the aggregator compares. Raises BadStudy for an aggregator that cannot be made."""
    size, method = study.privacy.group_size, study.method
    if size is None:
        return []
    needed = aggregators.make(method.aggregator, study.sites.block, method.aggregator_parameters).sites_needed
    if sites // size >= needed:
        return []
    problem = say(
        "is {size}: {sites} sites make {groups} groups, and {aggregator} with these parameters compares {needed} or more",
        size=size,
        sites=sites,
        groups=sites // size,
        aggregator=method.aggregator,
        needed=needed,
    )
    return [
        Fault(
            "privacy.group_size",
            problem,
            say("ask {needed} sites or more, or make the groups smaller; the smallest are of {minimum}", needed=needed * size, minimum=MINIMUM),
        )
    ]


def _metrics(study: Study) -> list[Fault]:
    kind = study.cohort.target.kind
    unknown = figures.validate(kind, study.evaluation.metrics)
    found = [
        Fault(
            "evaluation.metrics",
            say("{name} is no metric of a {kind} target", name=f"{name!r}", kind=kind),
            say("use some of: {kind}", kind=", ".join(figures.available(kind))),
        )
        for name in unknown
    ]
    found += _horizons(study)
    if study.evaluates is None and study.evaluation.held_out == 1:
        found.append(Fault("evaluation.held_out", "is 1, so nobody is left to train on", "hold out a part, for example 0.2"))
    if study.evaluation.held_out == 0 and (study.evaluation.metrics or study.evaluation.release_per_site):
        found.append(Fault("evaluation.held_out", "is 0, so nothing can be measured", "hold out a part, for example 0.2"))
    return found


def _horizons(study: Study) -> list[Fault]:
    target, horizons = study.cohort.target, study.evaluation.horizons
    strange = [f"{horizon:g}" for horizon in horizons if horizon not in target.intervals]
    found = []
    if horizons and not target.intervals:
        problem = "are of a survival target with `intervals`; Cox regression tells no risk by a time"
        found.append(Fault("evaluation.horizons", problem, "leave them out, or give the target `intervals`"))
    elif strange:
        ends = ", ".join(f"{end:g}" for end in target.intervals)
        found.append(
            Fault("evaluation.horizons", say("{strange} is no end of an interval", strange=", ".join(strange)), say("use some of: {ends}", ends=ends))
        )
    if len(set(horizons)) < len(horizons):
        found.append(Fault("evaluation.horizons", "names one twice", "name each once"))
    judged = sorted(figures.BY_HORIZON & set(study.evaluation.metrics))
    if target.kind == "survival" and judged and not horizons:
        found.append(Fault("evaluation.metrics", say("{judged}: at which times?", judged=", ".join(judged)), "give `evaluation.horizons`"))
    return found


def _sites(study: Study) -> list[Fault]:
    sites = study.sites
    found = []
    double = sorted(name for name, times in Counter(sites.names).items() if times > 1)
    if double:
        found.append(Fault("sites.names", say("named twice: {double}", double=", ".join(double)), "name each once"))
    if sites.names and sites.minimum > len(sites.names):
        found.append(
            Fault(
                "sites.minimum",
                say("is {minimum}, but `sites.names` has only {count}", minimum=sites.minimum, count=len(sites.names)),
                "lower it or name more sites",
            )
        )
    if sites.quorum is not None and sites.names and sites.quorum > len(sites.names):
        found.append(
            Fault(
                "sites.quorum",
                say("is {quorum}, but `sites.names` has only {count}", quorum=sites.quorum, count=len(sites.names)),
                "lower it or name more sites",
            )
        )
    return found


def _code(study: Study, folder: Path) -> list[Fault]:
    """The code is read, not run: it runs only where it is confined."""
    if study.model.code is None:
        return []
    place = say("model.code ({code})", code=study.model.code)
    try:
        module = ast.parse((folder / study.model.code).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [Fault(place, "is not beside the study", "put the file there")]
    except (SyntaxError, ValueError):
        return [Fault(place, "is not Python that can be parsed", "correct the file")]
    if not any(isinstance(node, ast.FunctionDef) and node.name == "build" for node in module.body):
        return [Fault(place, "has no function `build`", "define `def build(features, classes, **options)`")]
    return []
