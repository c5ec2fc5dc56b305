"""What a study of boosted trees may not ask for: they are grown level by level, take no steps, and no mean of them is a model."""

from __future__ import annotations

from collections.abc import Mapping

from aimer2.algorithms import catalogue
from aimer2.core.errors import Fault
from aimer2.core.said import say
from aimer2.core.study import Study, Training

FRAMEWORK, DRAWN = "trees", "random_trees"

_OWN: Mapping[str, str] = {
    "learning_rate": "set `method.parameters.learning_rate`",
    "schedule": "leave it out",
    "batch_size": "leave it out",
    "local_epochs": "leave it out",
    "local_steps": "leave it out",
    "ties": "leave it out",
}
"""Fields of a training by steps, and what to do in their place; the others are told for every framework that has none."""


def faults(study: Study) -> list[Fault]:
    """Of the model's trees and the method's rounds together; of a study that grows none, only what is for trees alone."""
    if study.model.framework != FRAMEWORK:
        return _gaps(study)
    return [*_method(study), *_training(study), *_code(study)]


def unprotected(study: Study) -> list[Fault]:
    """Nothing keeps a leaf of drawn splits from having one patient, so only noise hides it. A coordinator and a site look at this for themselves."""
    if study.method.name != DRAWN or study.privacy.of_records is not None:
        return []
    problem = say("is not of each patient, and without its noise the leaves of {name} tell of single patients, even in secret", name=DRAWN)
    return [Fault("privacy.differential_privacy", problem, "state ε and δ of each patient (`level = 'record'`), or take boosted_trees")]


def _gaps(study: Study) -> list[Fault]:
    if study.cohort.missing != "keep":
        return []
    problem = say("'keep' leaves gaps, and {framework} cannot compute with them", framework=study.model.framework)
    return [Fault("cohort.missing", problem, "use 'mean', 'drop', 'zero' or 'refuse', or set model.framework = 'trees'")]


def _method(study: Study) -> list[Fault]:
    method = study.method
    if method.name not in catalogue.names():
        return []
    growing = [name for name in catalogue.names() if FRAMEWORK in catalogue.frameworks(name)]
    if method.name not in growing:
        problem = say("{name} adds up weights, and the sum of two hospitals' trees is no tree", name=method.name)
        return [Fault("method.name", problem, say("use {growing}, or another framework", growing=" or ".join(growing)))]
    found = [*_rounds(study), *_ranges(study)]
    if method.aggregator != "weighted_mean":
        problem = say(
            "is {aggregator}, but histograms are added: what compares sites does not fit counts of unequal hospitals", aggregator=method.aggregator
        )
        found.append(Fault("method.aggregator", problem, "leave it out"))
    return found


def _rounds(study: Study) -> list[Fault]:
    given = study.model.options
    trees, depth = given.get("trees", 50), given.get("max_depth", 3)
    if type(trees) is not int or type(depth) is not int or trees < 1 or depth < 0:
        # told of the options themselves
        return []
    needed = trees if study.method.name == DRAWN else 1 + trees * max(1, depth)
    if study.method.rounds == needed:
        return []
    if study.method.name == DRAWN:
        problem = say(
            "is {rounds}, but {trees} trees of drawn splits take {needed}: one each", rounds=study.method.rounds, trees=trees, needed=needed
        )
    else:
        problem = say(
            "is {rounds}, but {trees} trees of depth {depth} take {needed}: one for the bins, and one for each level",
            rounds=study.method.rounds,
            trees=trees,
            depth=depth,
            needed=needed,
        )
    return [Fault("method.rounds", problem, say("set it to {needed}, or change `model.options.trees` and `max_depth`", needed=needed))]


def _ranges(study: Study) -> list[Fault]:
    """Of trees whose cuts are drawn before any value is seen."""
    if study.method.name != DRAWN:
        return []
    found = []
    if study.cohort.standardise != "range":
        problem = say("is '{standardise}', but {name} draws its cuts within the features' ranges", standardise=study.cohort.standardise, name=DRAWN)
        found.append(Fault("cohort.standardise", problem, "set it to 'range', with `minimum` and `maximum` of every number"))
    if study.cohort.target.kind == "regression":
        problem = say("of the kind 'regression' has derivatives without a bound, and {name} is for classes", name=DRAWN)
        found.append(Fault("cohort.target.kind", problem, "take boosted_trees, or a binary or multiclass target"))
    return found


def _training(study: Study) -> list[Fault]:
    usual = Training()
    return [
        Fault(f"training.{name}", "is of a training by steps, and trees take none", remedy)
        for name, remedy in _OWN.items()
        if getattr(study.training, name) != getattr(usual, name)
    ]


def _code(study: Study) -> list[Fault]:
    found = []
    if study.model.code is not None:
        found.append(Fault("model.code", "trees are ready-made", "set model.name = 'boosted' and leave `code` out"))
    if study.model.weights is not None:
        found.append(Fault("model.weights", "trees are grown from none: the first round lays new bins", "leave it out"))
    return found
