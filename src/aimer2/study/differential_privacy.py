"""What a study cannot ask for together with differential privacy, and what it costs: told before any site is asked.

Everything here would break the guarantee without a sound: a number that depends on other patients in a patient's gradient, a sum without
noise, a second look at the data that nobody counts. What concerns whole sites is in `site_level_terms`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aimer2.algorithms import catalogue
from aimer2.core.errors import BadInput, BadStudy, Fault, NotAvailable
from aimer2.core.said import say
from aimer2.core.study import Study, Training
from aimer2.privacy.noisy_metrics import NOISY_METRICS
from aimer2.privacy.site_terms import site_terms
from aimer2.privacy.terms import PLACE, Terms, incomplete, small_delta, terms
from aimer2.study import private_questions, site_level_terms
from aimer2.study.trees import DRAWN
from aimer2.study.trees import FRAMEWORK as TREES

POST_PROCESSING: Mapping[str, Mapping[str, tuple[Any, str]]] = {
    **{name: {} for name in ("fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "feddyn")},
    "fednova": {"mu": (0.0, "its pull takes a training of its own to measure the learning rate; leave `mu` out")},
    "scaffold": {"option": (2, "option 1 takes the gradient of all rows once more, without noise; option 2 needs no further look at the data")},
}
"""Methods whose site half trains once and sends only what follows from the noisy gradients; parameters that must have one value, and why."""

KINDS = ("binary", "multiclass", "regression")
"""Targets whose loss is a sum over patients: of a survival time each patient's loss depends on who else is at risk."""


def faults(study: Study) -> list[Fault]:
    """Every fault; none where the study asks for no differential privacy."""
    if study.privacy.differential_privacy is None:
        return []
    if study.evaluates is not None:
        problem = "is for training and for statistical questions; an evaluation's figures are sums over all sites, without noise"
        return [Fault(PLACE, problem, "leave it out")]
    if found := site_level_terms.faults(study) if study.privacy.of_sites is not None else _of_records(study):
        return found
    try:
        kept = terms(study) if study.privacy.of_sites is None else site_terms(study)
        kept.epsilon(kept.rounds, evaluations=kept.evaluations)
    except BadStudy as error:
        return list(error.faults)
    except BadInput as error:
        return [Fault(PLACE, error.sentence, "state other terms")]
    except NotAvailable as error:
        return [Fault(PLACE, error.sentence, error.advice)]
    return []


def _of_records(study: Study) -> list[Fault]:
    return [*incomplete(study), *_size(study), *_training(study), *_model(study), *_method(study), *_cohort(study), *_evaluation(study)]


def calibration(study: Study) -> dict[str, str]:
    """What the terms come to, line by line, for a person; empty without differential privacy."""
    if study.privacy.differential_privacy is None:
        return {}
    if study.analyses:
        return private_questions.calibration(study)
    if study.privacy.of_sites is not None:
        return site_level_terms.calibration(study)
    kept = terms(study)
    epsilon = kept.epsilon(kept.rounds, evaluations=kept.evaluations)
    word = " (the researcher's assertion: code of the study computes the gradients)" if study.model.code is not None else ""
    lines = {
        "privacy": f"ε = {epsilon:.3f} at δ = {kept.delta:g} for each patient over the whole study{word}",
        "noise": f"{kept.noise_multiplier:g} × the clip norm {kept.clip_norm:g}, in each of {kept.rounds} × {kept.local_steps} steps",
        "batch": f"{kept.expected_batch:g} patients expected per step at a site of {kept.patients} (each drawn with chance {kept.sampling_rate:g})",
        "after rounds": ", ".join(f"{done}: ε = {kept.epsilon(done):.3f}" for done in _milestones(kept)),
    }
    if kept.evaluation_noise is not None:
        lines["figures"] = f"once, of the last model; {kept.evaluation_noise:g} patients' noise per count and site, in ε"
    return lines


def _milestones(kept: Terms) -> list[int]:
    return sorted({max(1, round(kept.rounds * share)) for share in (0.25, 0.5, 0.75, 1.0)})


def _size(study: Study) -> list[Fault]:
    asked, patients = study.privacy.differential_privacy, study.cohort.minimum_patients
    assert asked is not None
    found = small_delta(asked, patients)
    if asked.sampling_rate is not None and asked.sampling_rate * patients < 1:
        problem = say("draws {sampling_rate} patients in a step at a site of `minimum_patients`", sampling_rate=f"{asked.sampling_rate * patients:g}")
        remedy = say("set it to {patients} or more, or `cohort.minimum_patients` nearer to what the sites have", patients=f"{1 / patients:g}")
        found.append(Fault(f"{PLACE}.sampling_rate", problem, remedy))
    return found


def _training(study: Study) -> list[Fault]:
    training = study.training
    found = []
    if training.batch_size not in (None, Training.model_fields["batch_size"].default):
        remedy = "leave it out: `privacy.differential_privacy.sampling_rate` says how many patients are in a step"
        found.append(Fault("training.batch_size", "has no meaning where patients are drawn at random", remedy))
    if training.local_epochs is not None:
        problem = "depends on how many patients a site has, which must not leave it"
        found.append(Fault("training.local_epochs", problem, "give `training.local_steps` in its place"))
    if training.accumulation is not None:
        found.append(Fault("training.accumulation", "divides batches that are not there", "leave it out: a step takes no more memory than it must"))
    if training.patience is not None:
        problem = "stops by looking at patients once more, without noise"
        found.append(Fault("training.patience", problem, "leave it out: the rounds and steps are what ε is counted by"))
    if training.optimiser == "module":
        problem = "'module' lets code of the study compute each step's loss, of all patients at once"
        found.append(Fault("training.optimiser", problem, "use sgd, adam, adamw, rmsprop or adagrad"))
    if training.mixed_precision:
        found.append(Fault("training.mixed_precision", "rounds gradients before they are clipped", "leave it out"))
    return found


def _model(study: Study) -> list[Fault]:
    model, asked = study.model, study.privacy.differential_privacy
    assert asked is not None
    found = []
    if model.framework not in ("torch", TREES):
        found.append(
            Fault("model.framework", say("{framework} tells no single patient's gradient here", framework=model.framework), "use framework = 'torch'")
        )
    if model.code is not None and not asked.asserted:
        problem = "runs in the process that adds the noise, so AIMER2 cannot vouch for ε"
        remedy = say(
            "use a ready-made model, or set `{place}.asserted = true`: ε is then told as your word, and a hospital may refuse it", place=PLACE
        )
        found.append(Fault("model.code", problem, remedy))
    if model.code is None and asked.asserted:
        found.append(Fault(f"{PLACE}.asserted", "is for a study with code of its own; here AIMER2 vouches for ε", "leave it out"))
    if model.options.get("batch_norm"):
        problem = "normalises by the batch, so one patient's gradient depends on the others"
        found.append(Fault("model.options.batch_norm", problem, "leave it out, or take a model with group or layer normalisation"))
    return found


def _method(study: Study) -> list[Fault]:
    name, given = study.method.name, study.method.parameters
    if name not in catalogue.names():
        return []
    allowed = {DRAWN: {}} if study.model.framework == TREES else POST_PROCESSING
    if name not in allowed:
        problem = say("{name} looks at patients' data beyond the gradients that are clipped and get noise", name=name)
        return [Fault("method.name", problem, say("use one of {post_processing}", post_processing=", ".join(sorted(allowed))))]
    wanted = allowed[name]
    return [
        Fault(f"method.parameters.{key}", say("is {given}", given=given[key]), why)
        for key, (value, why) in wanted.items()
        if given.get(key, value) != value
    ]


def _cohort(study: Study) -> list[Fault]:
    cohort = study.cohort
    found = []
    if cohort.target.kind not in KINDS:
        problem = say("of the kind '{kind}' is not available with differential privacy in this version", kind=cohort.target.kind)
        found.append(Fault("cohort.target", problem, say("use one of {kinds}", kinds=", ".join(KINDS))))
    if cohort.features and cohort.standardise in ("federated", "site"):
        problem = say("'{standardise}' makes every patient's numbers depend on all others', without noise", standardise=cohort.standardise)
        remedy = "use 'range' with `minimum` and `maximum` of every feature, or 'none'"
        found.append(Fault("cohort.standardise", problem, remedy))
    if cohort.missing == "mean":
        found.append(Fault("cohort.missing", "'mean' puts a mean of other patients, without noise", "use 'drop', 'zero' or 'refuse'"))
    return found


def _evaluation(study: Study) -> list[Fault]:
    kind, evaluation = study.cohort.target.kind, study.evaluation
    if evaluation.held_out == 0:
        return []
    if evaluation.release_per_site:
        problem = "of one site's few held-out patients the noise would leave nothing to tell"
        return [Fault("evaluation.release_per_site", problem, "leave it out: the pooled figures are told")]
    if kind not in NOISY_METRICS:
        problem = say("the figures of a {kind} have no bound, and no noise can be added to them", kind=kind)
        return [Fault("evaluation.held_out", problem, "set it to 0, and measure the model on data of your own")]
    if kind == "regression" and study.cohort.target.span is None:
        problem = "is missing: without `minimum` and `maximum` one patient's error may be any number, which no noise hides"
        return [Fault("cohort.target.minimum", problem, "give the range of plausible values, or set `evaluation.held_out` to 0")]
    usable = NOISY_METRICS[kind]
    return [
        Fault(
            "evaluation.metrics",
            say("{name} does not follow from counts or bounded sums, to which noise can be added", name=f"{name!r}"),
            say("use some of: {usable}", usable=", ".join(usable)),
        )
        for name in study.evaluation.metrics
        if name not in usable
    ]
