"""Which targets and ways of training go together: what a study may not ask for at once, said before any site is asked."""

from __future__ import annotations

from aimer2.core.errors import Fault
from aimer2.core.said import say
from aimer2.core.study import Study, Training

OWN_OPTIMISER = "module"
"""The optimiser's name in a study whose module says itself how it trains (`aimer2.learners.torch_lightning`)."""

_WEIGHTED = {
    "binary": "one for each of the two classes",
    "multiclass": "one for each class",
    "multilabel": "one for each label",
    "segmentation": "one for each class",
}


def faults(study: Study) -> list[Fault]:
    return [*_torch_only(study), *_pixels(study), *_class_weights(study), *_cox(study), *_own_optimiser(study), *_private(study)]


def apart(study: Study) -> str:
    """Why the sites of a simulation cannot be trained in one computation; empty: as far as the study says, they can."""
    target, training = study.cohort.target, study.training
    reasons = {
        say("the study trains no model"): bool(study.analyses) or study.evaluates is not None,
        say("only PyTorch models are"): study.model.framework != "torch",
        say("differential privacy looks at each patient's gradient"): study.privacy.of_records is not None,
        say("the module says itself how it trains"): training.optimiser == OWN_OPTIMISER,
        say("early stopping ends each site's training at a time of its own"): training.patience is not None,
        say("accumulation divides the batches"): training.accumulation is not None,
        say("mixed precision rounds too much"): training.mixed_precision,
        say("Cox regression compares the patients of a batch with each other"): target.kind == "survival" and not target.intervals,
        say("lora trains another model at each site"): study.method.name == "lora",
    }
    return next((why for why, holds in reasons.items() if holds), "")


def _torch_only(study: Study) -> list[Fault]:
    name, kind, training = study.model.framework, study.cohort.target.kind, study.training
    if name == "torch":
        return []
    found = []
    if kind not in ("binary", "multiclass", "regression"):
        found.append(Fault("cohort.target.kind", say("{name} has no {kind} target", name=name, kind=kind), "set model.framework = 'torch'"))
    asked = [field for field in ("accumulation", "class_weights", "patience") if getattr(training, field)]
    return found + [
        Fault(f"training.{field}", say("{name} has none", name=name), "leave it out, or set model.framework = 'torch'") for field in asked
    ]


def _pixels(study: Study) -> list[Fault]:
    if study.cohort.target.kind != "segmentation" or study.cohort.image is not None:
        return []
    return [Fault("cohort.image", "is missing: a segmentation tells a class for each pixel of an image", "say which images the model sees")]


def _class_weights(study: Study) -> list[Fault]:
    target, weights = study.cohort.target, study.training.class_weights
    if not weights:
        return []
    if target.kind not in _WEIGHTED:
        return [Fault("training.class_weights", say("a {kind} target has no classes", kind=target.kind), "leave it out")]
    if len(weights) != target.classes:
        return [
            Fault(
                "training.class_weights",
                say("has {count} entries", count=len(weights)),
                say("give {weighted}: {classes}", weighted=_WEIGHTED[target.kind], classes=target.classes),
            )
        ]
    return []


def _cox(study: Study) -> list[Fault]:
    target, training = study.cohort.target, study.training
    cox = target.kind == "survival" and not target.intervals
    found = []
    if training.ties is not None and not cox:
        found.append(Fault("training.ties", "is of Cox regression", "leave it out; a survival target without `intervals` is Cox regression"))
    if training.accumulation is not None and cox:
        problem = "would divide the patients that each is compared with: of Cox regression the batch is the risk set"
        found.append(Fault("training.accumulation", problem, "leave it out, or give the target `intervals`"))
    return found


def _own_optimiser(study: Study) -> list[Fault]:
    training = study.training
    if training.optimiser != OWN_OPTIMISER:
        return []
    if study.model.code is None:
        return [Fault("training.optimiser", "'module' is for a module that says itself how it trains", "name an optimiser, or bring `model.code`")]
    fields = ("learning_rate", "momentum", "weight_decay", "schedule", "class_weights", "ties")
    usual, problem = Training(), "is the module's own affair under optimiser = 'module'"
    stated = [name for name in fields if getattr(training, name) != getattr(usual, name)]
    return [Fault(f"training.{name}", problem, "leave it out, and set it in the code") for name in stated]


def _private(study: Study) -> list[Fault]:
    """DP-SGD's noise is counted for plain steps over one patient's gradient each."""
    target, training = study.cohort.target, study.training
    if study.privacy.of_records is None:
        return []
    found = []
    if target.kind in ("multilabel", "survival", "segmentation"):
        found.append(
            Fault("cohort.target.kind", say("differential privacy has no {kind} target in this version", kind=target.kind), "leave one of them out")
        )
    stated = [name for name in ("accumulation", "patience") if getattr(training, name) is not None]
    found += [Fault(f"training.{name}", "is not there under differential privacy", "leave it out") for name in stated]
    if training.optimiser == OWN_OPTIMISER:
        found.append(Fault("training.optimiser", "'module' is not there under differential privacy", "name an optimiser"))
    return found
