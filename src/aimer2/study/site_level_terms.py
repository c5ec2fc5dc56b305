"""What a study cannot ask for together with site-level differential privacy, what it costs, and what its record says of it."""

from __future__ import annotations

import math
from typing import Any

from aimer2.algorithms import catalogue
from aimer2.core.errors import Fault
from aimer2.core.said import say
from aimer2.core.study import Study
from aimer2.privacy.noisy_metrics import COUNTED
from aimer2.privacy.site_terms import UNITS, SiteTerms, site_incomplete, site_terms
from aimer2.privacy.terms import PLACE, small_delta
from aimer2.secure_aggregation.roster import threshold, trusted

MARKING = ("fedadagrad", "fedadam", "fedavgm", "fedyogi")
"""Methods whose sites also say which arrays of the model are running means."""

METHODS = ("fedavg", "fedprox", "fedsgd", "frozen_backbone", "lora", *MARKING)
"""Methods of which nothing leaves a site but its mean change of the model, and its weight, for which 1 can stand."""


def faults(study: Study) -> list[Fault]:
    """All but those of the amount; none where no whole site is to be protected."""
    if study.privacy.of_sites is None:
        return []
    return [*site_incomplete(study), *_secrecy(study), *_method(study), *_model(study), *_cohort(study), *_evaluation(study)]


def calibration(study: Study) -> dict[str, str]:
    """What the terms come to, line by line, for a person."""
    kept = site_terms(study)
    of_site, of_patient = (kept.epsilon(kept.rounds, evaluations=kept.evaluations, of=unit) for unit in UNITS)
    follows = "" if kept.clip_quantile is None else f" at first; it follows the {kept.clip_quantile:g} quantile of the sites' lengths"
    milestones = sorted({max(1, round(kept.rounds * share)) for share in (0.25, 0.5, 0.75, 1.0)})
    lines = {
        "privacy": f"ε = {of_site:.3f} at δ = {kept.delta:g} for each site over the whole study",
        "of a patient": f"ε = {of_patient:.3f}: what each site's ledger is charged, as one patient can turn a site's part round",
        "noise": f"{kept.noise_multiplier:g} × the clip norm {kept.clip_norm:g}{follows}, in the sum of each of {kept.rounds} rounds",
        "after rounds": ", ".join(f"{done}: ε = {kept.epsilon(done):.3f}" for done in milestones),
    }
    if study.sites.names:
        sites = len(study.sites.names)
        lines["on the mean"] = f"{_on_the_mean(kept, sites):.3g} per number of the model, if all {sites} sites are in the sum"
    if kept.evaluation_noise is not None:
        lines["figures"] = f"once, of the last model; {kept.evaluation_noise:g} sites' noise per count, in ε; each site counts as one"
    return lines


def stated(study: Study, sites: int, rounds: int, evaluations: int) -> dict[str, Any]:
    """The guarantee for so many rounds and tellings of the figures."""
    kept, asked = site_terms(study), study.privacy.of_sites
    assert asked is not None
    evaluations = evaluations if kept.evaluation_noise is not None else 0
    mechanism = "Skellam noise on the sum of the sites' shares of held-out patients"
    figures = {"mechanism": mechanism, "noise": kept.evaluation_noise, "times": evaluations}
    epsilon = round(kept.epsilon(rounds, evaluations=evaluations), 4)
    return {
        "level": "site",
        "unit": "site, with all its patients",
        "neighbouring": "a site's part in every sum is replaced by zeros; that it took part is not hidden",
        "epsilon": epsilon,
        "epsilon_by_renyi": epsilon,
        "epsilon_of_a_patient": round(kept.epsilon(rounds, evaluations=evaluations, of="patient"), 4),
        "delta": kept.delta,
        "epsilon_asked": asked.epsilon,
        "mechanism": "each site's change of the model clipped, rounded to whole numbers and under its share of Skellam noise before it is masked",
        "noise_multiplier": kept.noise_multiplier,
        "clip_norm": kept.clip_norm,
        "clip_quantile": kept.clip_quantile,
        "noise_of": f"{trusted(sites)} sites: of the {threshold(sites)} or more in a sum those that are neither in league with the coordinator "
        "nor the reader; every further site adds noise",
        "sampling": None,
        "rounds": rounds,
        "figures": None if kept.evaluation_noise is None else figures,
        "composition": "all rounds and the figures, over the study",
        "accountant": "Rényi differential privacy of the Skellam mechanism",
        "word": "enforced by AIMER2 at each site",
    }


def _on_the_mean(kept: SiteTerms, sites: int) -> float:
    return kept.noise_multiplier * kept.clip_norm * math.sqrt(sites / trusted(sites)) / sites


def _secrecy(study: Study) -> list[Fault]:
    if study.privacy.group_size is not None:
        problem = "is given, but the noise that hides a site is sized for the sum of all"
        return [Fault("privacy.group_size", problem, "leave it out, or protect single patients (`level` = 'record')")]
    if study.privacy.secure_aggregation:
        return []
    problem = "is false, and each site adds only its share of the noise, which hides it in the sum alone"
    return [
        Fault(
            "privacy.secure_aggregation",
            problem,
            say("leave it out, or set `{place}.level = 'record'`, whose noise is whole at each site", place=PLACE),
        )
    ]


def _method(study: Study) -> list[Fault]:
    name, method, found = study.method.name, study.method, []
    if name in catalogue.names() and name not in METHODS:
        problem = say("{name} sends more than the mean change of the model, or weighs sites by their data", name=name)
        found.append(Fault("method.name", problem, say("use one of {methods}", methods=", ".join(sorted(METHODS)))))
    if name in MARKING and study.model.code is not None:
        problem = say("of {name} the study's code could tell something by which arrays it calls running means", name=name)
        found.append(Fault("method.name", problem, "use fedavg or fedprox, or a ready-made model"))
    if method.aggregator != "weighted_mean":
        found.append(
            Fault(
                "method.aggregator",
                say("{aggregator} is not the one sum that the noise is counted for", aggregator=method.aggregator),
                "leave it out",
            )
        )
    if method.largest_change is not None:
        found.append(Fault("method.largest_change", say("is what `{place}.clip_norm` is here", place=PLACE), "leave it out"))
    return found


def _model(study: Study) -> list[Fault]:
    asked, found = study.privacy.of_sites, []
    if asked is not None and asked.asserted:
        problem = "is for the level 'record'; here AIMER2 vouches for ε, whatever the study's code does"
        found.append(Fault(f"{PLACE}.asserted", problem, "leave it out"))
    if study.model.options.get("batch_norm"):
        problem = "keeps running variances, and noise can bring one below 0"
        found.append(Fault("model.options.batch_norm", problem, "leave it out, or take a model with group or layer normalisation"))
    return found


def _cohort(study: Study) -> list[Fault]:
    cohort, asked, found = study.cohort, study.privacy.of_sites, []
    if cohort.common_moments:
        place = "cohort.standardise" if cohort.standardise == "federated" else "cohort.missing"
        problem = "sends means and deviations of the sites' columns, without noise"
        found.append(Fault(place, problem, "use standardise = 'site', 'range' or 'none', and missing = 'drop', 'zero' or 'refuse'"))
    if asked is not None:
        found += small_delta(asked, cohort.minimum_patients)
    return found


def _evaluation(study: Study) -> list[Fault]:
    kind, evaluation = study.cohort.target.kind, study.evaluation
    if evaluation.held_out == 0:
        return []
    if evaluation.release_per_site:
        return [Fault("evaluation.release_per_site", "would tell each site's figures without noise, beside the account", "leave it out")]
    if kind not in COUNTED:
        problem = say("the figures of a {kind} are no shares of patients, to which a whole site's noise can be added", kind=kind)
        return [Fault("evaluation.held_out", problem, "set it to 0, and measure the model on data of your own")]
    usable = COUNTED[kind]
    return [
        Fault(
            "evaluation.metrics",
            say("{name} does not follow from counts, to which noise can be added", name=f"{name!r}"),
            say("use some of: {usable}", usable=", ".join(usable)),
        )
        for name in evaluation.metrics
        if name not in usable
    ]
