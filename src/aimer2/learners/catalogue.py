"""The learner for a study: where framework, model and data meet. Importing this loads no framework."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, final

from aimer2.core.errors import BadModel, BadStudy, Fault, NotAvailable
from aimer2.core.protocols import Learner
from aimer2.core.said import say
from aimer2.core.study import Study
from aimer2.learners import code, tasks
from aimer2.learners.recipe import WITH_MOMENTUM, Recipe
from aimer2.learners.schedules import SCHEDULES
from aimer2.privacy.terms import terms

Made = TypeVar("Made")


@final
@dataclass(frozen=True, slots=True)
class _Framework:
    """Where its learner is, what it can do. The extra that installs its libraries has the framework's name."""

    module: str
    learner: str
    libraries: tuple[str, ...]
    optimisers: tuple[str, ...]
    mixed_precision: bool = False
    corrects: bool = True
    """Whether its gradients can be corrected on their way; then it also takes momentum and weight decay."""
    distribution: str = ""
    """The package's name where it is not the framework's."""


_ALL_OPTIMISERS = ("sgd", "adam", "adamw", "rmsprop", "adagrad")
_FRAMEWORKS: Mapping[str, _Framework] = {
    "numpy": _Framework("aimer2.learners.numpy", "NumpyLearner", ("numpy",), ("sgd",)),
    "torch": _Framework("aimer2.learners.torch", "TorchLearner", ("torch",), (*_ALL_OPTIMISERS, tasks.OWN_OPTIMISER), mixed_precision=True),
    "keras": _Framework("aimer2.learners.keras", "KerasLearner", ("tensorflow", "keras"), _ALL_OPTIMISERS),
    "sklearn": _Framework("aimer2.learners.sklearn", "SklearnLearner", ("sklearn",), ("sgd",), corrects=False, distribution="scikit-learn"),
    "trees": _Framework("aimer2.learners.trees", "TreesLearner", ("numpy",), ("sgd",), corrects=False, distribution="numpy"),
}

_OF_PROBABILITIES = ("brier", "log_loss", "calibration_error", "calibration_in_the_large")


def distribution(framework: str) -> str:
    """The package that has to be installed for it."""
    return _FRAMEWORKS[framework].distribution or framework


def corrects(framework: str) -> bool:
    """Whether a method may correct its gradients."""
    return _FRAMEWORKS[framework].corrects


def faults(study: Study) -> list[Fault]:
    """All that the study asks of model and training and no learner here does; loads no framework."""
    framework, training, model = _FRAMEWORKS[study.model.framework], study.training, study.model
    found = []
    if training.optimiser not in framework.optimisers:
        found.append(
            Fault(
                "training.optimiser",
                say("{framework} has no '{optimiser}'", framework=model.framework, optimiser=training.optimiser),
                say("use one of {optimisers}", optimisers=", ".join(framework.optimisers)),
            )
        )
    elif training.momentum and training.optimiser not in WITH_MOMENTUM:
        found.append(
            Fault(
                "training.momentum",
                say("'{optimiser}' takes no momentum", optimiser=training.optimiser),
                say("leave it out, or use {with_momentum}", with_momentum=" or ".join(WITH_MOMENTUM)),
            )
        )
    if training.schedule not in SCHEDULES:
        found.append(
            Fault(
                "training.schedule",
                say("there is no '{schedule}'", schedule=training.schedule),
                say("use one of {schedules}", schedules=", ".join(SCHEDULES)),
            )
        )
    if training.mixed_precision and not framework.mixed_precision:
        found.append(Fault("training.mixed_precision", say("{framework} has none", framework=model.framework), "leave it out"))
    found += [*_without_gradients(study), *_several(study), *_no_probabilities(study), *_images(study), *tasks.faults(study)]
    if model.name is not None:
        found += _models().faults(model.framework, model.name, study.cohort.target.classes, model.options, study.cohort.target.kind)
    return found


def make_learner(study: Study, *, feature_shape: tuple[int, ...], files: Mapping[str, Path], device: str | None = None) -> Learner:
    """The study's model, ready to train on features of this shape; its weights are untrained and the same at every call.

    ``files``: the code beside the study by name. ``device``: None takes a GPU where there is one.

    Raises BadStudy for what `faults` finds, BadModel where the model does not fit or its code fails, NotAvailable where the framework or
    the device is missing.
    """
    if found := faults(study):
        raise BadStudy(found)
    name = _installed(study)
    framework = _FRAMEWORKS[name]
    make = getattr(importlib.import_module(framework.module), framework.learner)
    if study.privacy.of_records is not None:
        make = _private(study)
    made: Learner = _made(partial(make, device=device), study, name, feature_shape, files)
    return made


def frameworks(study: Study) -> tuple[str, ...]:
    """Those with which a site can take part, the study's first choice first."""
    return (study.model.framework, *study.model.also)


class SharedLearner(Protocol):
    """One model that many sites train at once."""

    def learner(self) -> Learner:
        """A site's own; it holds the site's weights."""
        ...

    def abreast(self, calls: Sequence[Callable[[], Made]]) -> Iterator[Made]:
        """What the calls return, in their order; where they fit their learners, they do so together."""
        ...


def make_vectorised(study: Study, *, feature_shape: tuple[int, ...], files: Mapping[str, Path]) -> SharedLearner:
    """As `make_learner`, for all sites of a simulation. Raises NotAvailable where they cannot be trained in one computation."""
    if why := tasks.apart(study):
        raise NotAvailable(say("These sites cannot be trained in one computation: {why}.", why=why), remedy="Leave `vectorised` out.")
    if not importlib.util.find_spec("greenlet"):
        raise NotAvailable("To train sites in one computation needs greenlet.", remedy="Install it: pip install 'aimer2[torch]'")
    vectorised = importlib.import_module("aimer2.learners.torch_vectorised").VectorisedTorchLearner
    made: SharedLearner = _made(vectorised, study, "torch", feature_shape, files)
    return made


def _installed(study: Study) -> str:
    """The first framework that is here. Raises NotAvailable where none is."""
    for name in frameworks(study):
        if all(importlib.util.find_spec(library) for library in _FRAMEWORKS[name].libraries):
            return name
    lacking = " or ".join(frameworks(study))
    remedy = say("Install it: pip install 'aimer2[{framework}]'", framework=study.model.framework)
    raise NotAvailable(say("This study needs {lacking}, which is not installed here.", lacking=lacking), remedy=remedy)


def _private(study: Study) -> Callable[..., Learner]:
    """The learner that keeps to the study's terms of differential privacy. Raises NotAvailable where its library is not here."""
    if study.model.framework == "trees":
        grows: Callable[..., Learner] = importlib.import_module("aimer2.learners.trees_private").PrivateTreesLearner
        return partial(grows, terms=terms(study))
    if not importlib.util.find_spec("opacus"):
        sentence = "This study asks for differential privacy, and opacus, which trains by it, is not installed here."
        raise NotAvailable(sentence, remedy="Install it: pip install 'aimer2[dp]'")
    learner: Callable[..., Learner] = importlib.import_module("aimer2.learners.torch_private").PrivateTorchLearner
    return partial(learner, terms=terms(study))


def _without_gradients(study: Study) -> list[Fault]:
    """What a learner that takes its steps out of sight cannot do."""
    training, name = study.training, study.model.framework
    if corrects(name):
        return []
    found = []
    if training.momentum:
        found.append(Fault("training.momentum", say("{name} has none", name=name), "leave it out"))
    if training.weight_decay:
        own = {"sklearn": "use the model's own penalty, for example model.options.penalty = 'l2'"}
        found.append(Fault("training.weight_decay", say("{name} has none", name=name), own.get(name, "leave it out")))
    return found


def _no_probabilities(study: Study) -> list[Fault]:
    """Metrics that would take a score for a probability."""
    name = study.model.name
    if name is None or _models().tells_probabilities(study.model.framework, name):
        return []
    problem, remedy = say("takes the score for a probability, and {name} tells none", name=name), "leave it out, or set model.name = 'logistic'"
    return [
        Fault("evaluation.metrics", say("{metric} {problem}", metric=metric, problem=problem), remedy)
        for metric in study.metrics
        if metric in _OF_PROBABILITIES
    ]


def _images(study: Study) -> list[Fault]:
    """Models that images, or columns beside them, are too much or too small for."""
    name, framework, image = study.model.name, study.model.framework, study.cohort.image
    if image is None:
        return []
    if framework == "trees":
        return [Fault("model.framework", "trees are grown on tables, and the cohort is of images", "use torch")]
    if name is None or name not in _models().available(framework):
        return []
    if study.cohort.features and not _models().joins(framework, name):
        remedy = "use the cnn of torch or keras, or a model of your own (`model.code`)"
        return [Fault("cohort.features", say("stand beside images, and '{name}' takes no columns with them", name=name), remedy)]
    least = _models().smallest(framework, name, study.model.options)
    if min(image.height, image.width) >= least:
        return []
    problem = say(
        "are of {height}×{width}, and the model halves them until {least}×{least} is one pixel", height=image.height, width=image.width, least=least
    )
    return [Fault("cohort.image", problem, "set fewer `model.options.channels`, or take larger images")]


def _several(study: Study) -> list[Fault]:
    """Whether the model is the same in every framework that the study names."""
    model = study.model
    if not model.also:
        return []
    if model.framework != "torch" or model.name is None:
        return [Fault("model.also", "is for the ready-made models of torch", "set framework = 'torch' and give `name`, or leave `also` out")]
    found = []
    if model.options.get("batch_norm"):
        problem = "divides the running variance differently in each framework, so the sites' models would not be the same"
        found.append(Fault("model.options.batch_norm", problem, "leave it out, or leave `model.also` out"))
    if study.privacy.of_records is not None:
        problem = "keras gives no gradient of each single patient, which the noise is measured by"
        found.append(Fault("model.also", problem, "leave `also` out, or the differential privacy of records"))
    for name in model.also:
        found += [
            Fault("model.also", say("{name}: {problem}", name=name, problem=fault.problem), fault.remedy) for fault in faults(_only(study, name))
        ]
    return found


def _only(study: Study, framework: str) -> Study:
    return study.model_copy(update={"model": study.model.model_copy(update={"framework": framework, "also": ()})})


def _made(make: Callable[..., Any], study: Study, framework: str, feature_shape: tuple[int, ...], files: Mapping[str, Path]) -> Any:
    recipe = Recipe.of(study, feature_shape)
    if study.model.code is None:
        return make(_named(study, framework, feature_shape), recipe)
    build = _from_code(study, feature_shape, files)
    with code.refusing():
        return make(build, recipe)


def _named(study: Study, framework: str, feature_shape: tuple[int, ...]) -> Callable[[], Any]:
    model, target = study.model, study.cohort.target
    columns = 0 if study.cohort.image is None else sum(feature.width for feature in study.cohort.features)
    return partial(_models().build, framework, model.name, feature_shape, target.classes, model.options, target.kind, columns)


def _from_code(study: Study, feature_shape: tuple[int, ...], files: Mapping[str, Path]) -> Callable[[], Any]:
    name = study.model.code or ""
    if name not in files:
        raise BadModel(say("The study names {name}, but that file is not with it.", name=name))
    features = feature_shape[0] if len(feature_shape) == 1 else feature_shape
    return partial(code.load_build(files[name]), features, study.cohort.target.classes, **study.model.options)


def _models() -> Any:
    """The ready-made models: rooms of one layer do not know each other, so they meet by name."""
    return importlib.import_module("aimer2.models.catalogue")
