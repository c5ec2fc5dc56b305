"""The learner for a study: where framework, model and data meet. Importing this loads no framework."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

from aimer2.core.errors import BadModel, BadStudy, Fault, NotAvailable
from aimer2.core.protocols import Learner
from aimer2.core.study import Study
from aimer2.learners import code
from aimer2.learners.recipe import WITH_MOMENTUM, Recipe
from aimer2.learners.schedules import SCHEDULES


@final
@dataclass(frozen=True, slots=True)
class _Framework:
    """Where its learner is, what it can do. ``library`` is also the name of the extra that installs it."""

    module: str
    learner: str
    library: str
    optimisers: tuple[str, ...]
    mixed_precision: bool = False


_FRAMEWORKS: Mapping[str, _Framework] = {
    "numpy": _Framework("aimer2.learners.numpy", "NumpyLearner", "numpy", ("sgd",)),
    "torch": _Framework("aimer2.learners.torch", "TorchLearner", "torch", ("sgd", "adam", "adamw", "rmsprop", "adagrad"), mixed_precision=True),
}


def faults(study: Study) -> list[Fault]:
    """All that the study asks of model and training and no learner here does; loads no framework."""
    framework, training, model = _FRAMEWORKS[study.model.framework], study.training, study.model
    found = []
    if training.optimiser not in framework.optimisers:
        found.append(Fault("training.optimiser", f"{model.framework} has no '{training.optimiser}'", f"use one of {', '.join(framework.optimisers)}"))
    elif training.momentum and training.optimiser not in WITH_MOMENTUM:
        found.append(Fault("training.momentum", f"'{training.optimiser}' takes no momentum", f"leave it out, or use {' or '.join(WITH_MOMENTUM)}"))
    if training.schedule not in SCHEDULES:
        found.append(Fault("training.schedule", f"there is no '{training.schedule}'", f"use one of {', '.join(SCHEDULES)}"))
    if training.mixed_precision and not framework.mixed_precision:
        found.append(Fault("training.mixed_precision", f"{model.framework} has none", "leave it out"))
    if model.name is not None:
        found += _models().faults(model.framework, model.name, study.cohort.target.classes, model.options)
    return found


def make_learner(study: Study, *, feature_shape: tuple[int, ...], files: Mapping[str, Path], device: str | None = None) -> Learner:
    """The study's model, ready to train on features of this shape; its weights are untrained and the same at every call.

    ``files``: the code beside the study by name. ``device``: None takes a GPU where there is one.

    Raises BadStudy for what `faults` finds, BadModel where the model does not fit or its code fails, NotAvailable where the framework or
    the device is missing.
    """
    if found := faults(study):
        raise BadStudy(found)
    framework = _FRAMEWORKS[study.model.framework]
    try:
        module = importlib.import_module(framework.module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != framework.library:
            raise
        remedy = f"Install it: pip install 'aimer2[{framework.library}]'"
        raise NotAvailable(f"This study needs {framework.library}, which is not installed here.", remedy=remedy) from None
    make = getattr(module, framework.learner)
    recipe = Recipe.of(study, feature_shape)
    if study.model.code is None:
        made: Learner = make(_named(study, feature_shape), recipe, device)
        return made
    build = _from_code(study, feature_shape, files)
    with code.refusing():
        made = make(build, recipe, device)
    return made


def _named(study: Study, feature_shape: tuple[int, ...]) -> Callable[[], Any]:
    model = study.model
    return partial(_models().build, model.framework, model.name, feature_shape, study.cohort.target.classes, model.options)


def _from_code(study: Study, feature_shape: tuple[int, ...], files: Mapping[str, Path]) -> Callable[[], Any]:
    name = study.model.code or ""
    if name not in files:
        raise BadModel(f"The study names {name}, but that file is not with it.")
    features = feature_shape[0] if len(feature_shape) == 1 else feature_shape
    return partial(code.load_build(files[name]), features, study.cohort.target.classes, **study.model.options)


def _models() -> Any:
    """The ready-made models: rooms of one layer do not know each other, so they meet by name."""
    return importlib.import_module("aimer2.models.catalogue")
