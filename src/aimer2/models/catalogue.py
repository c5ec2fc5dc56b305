"""The ready-made models by framework and name. Listing them and checking their options loads no framework."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from pydantic import ValidationError

from aimer2.core.errors import BadModel, Fault
from aimer2.core.said import say
from aimer2.core.study import faults_of
from aimer2.core.task import Document
from aimer2.models.options import BoostedTreesOptions, CnnOptions, LinearOptions, MlpOptions, SgdOptions, UnetOptions

_TARGETS = {1: "regression", 2: "binary"}
_ALL = ("binary", "multiclass", "regression", "multilabel", "survival")
_ANY = ("binary", "multiclass", "regression")


@final
@dataclass(frozen=True, slots=True)
class _Architecture:
    """One model: its line, where its builder is, what may be set, for which targets it is."""

    line: str
    module: str
    builder: str
    options: type[Document]
    targets: tuple[str, ...]
    probabilities: bool = True
    """Whether its scores for classes are probabilities."""
    joins: bool = False
    """Whether it takes columns beside images; its builder then takes their number."""


_MODELS: Mapping[str, Mapping[str, _Architecture]] = {
    "numpy": {
        "linear": _Architecture("linear regression, float64", "linear", "build_linear", LinearOptions, ("regression",)),
        "logistic": _Architecture("logistic regression, float64", "linear", "build_logistic", LinearOptions, ("binary",)),
        "multinomial": _Architecture("multinomial regression, float64", "linear", "build_multinomial", LinearOptions, ("multiclass",)),
    },
    "trees": {"boosted": _Architecture("gradient-boosted trees", "trees", "build", BoostedTreesOptions, _ANY)},
    "torch": {
        "linear": _Architecture("linear and Cox regression", "single_layer", "build", LinearOptions, ("regression", "survival")),
        "logistic": _Architecture(
            "logistic or multinomial regression", "single_layer", "build", LinearOptions, ("binary", "multiclass", "multilabel")
        ),
        "mlp": _Architecture("multilayer perceptron for tables", "mlp", "build", MlpOptions, _ALL),
        "cnn": _Architecture("small convolutional network for images", "cnn", "build", CnnOptions, _ALL, joins=True),
        "unet": _Architecture("small U-Net: a class for each pixel of an image", "unet", "build", UnetOptions, ("segmentation",)),
    },
    "keras": {
        "linear": _Architecture("linear regression", "keras", "build_linear", LinearOptions, ("regression",)),
        "logistic": _Architecture("logistic or multinomial regression", "keras", "build_linear", LinearOptions, ("binary", "multiclass")),
        "mlp": _Architecture("multilayer perceptron for tables", "keras", "build_mlp", MlpOptions, _ANY),
        "cnn": _Architecture("small convolutional network for images", "keras", "build_cnn", CnnOptions, _ANY, joins=True),
    },
    "sklearn": {
        "linear": _Architecture("linear regression, row by row", "sklearn", "build_linear", SgdOptions, ("regression",)),
        "logistic": _Architecture("logistic regression, row by row", "sklearn", "build_logistic", SgdOptions, ("binary", "multiclass")),
        "svm": _Architecture("linear support vector machine", "sklearn", "build_svm", SgdOptions, ("binary", "multiclass"), probabilities=False),
        "perceptron": _Architecture(
            "Rosenblatt's perceptron", "sklearn", "build_perceptron", SgdOptions, ("binary", "multiclass"), probabilities=False
        ),
    },
}


def available(framework: str) -> Mapping[str, str]:
    """The models of a framework: name and one line."""
    return {name: architecture.line for name, architecture in _MODELS.get(framework, {}).items()}


def options(framework: str, name: str) -> type[Document]:
    """The document of a model's options.

    Raises BadModel for a name the framework does not have.
    """
    return _find(framework, name).options


def tells_probabilities(framework: str, name: str) -> bool:
    """Whether the model's scores for classes are probabilities; an unknown name counts as such."""
    return name not in available(framework) or _find(framework, name).probabilities


def joins(framework: str, name: str) -> bool:
    """Whether the model takes columns beside images. Raises BadModel for a name the framework does not have."""
    return _find(framework, name).joins


def smallest(framework: str, name: str, chosen: Mapping[str, Any]) -> int:
    """Height and width that an image must have for the model with these options; of a choice with faults 1."""
    if faults(framework, name, 0, chosen, _find(framework, name).targets[0]):
        return 1
    return int(getattr(options(framework, name)(**chosen), "smallest", 1))


def faults(framework: str, name: str, classes: int, chosen: Mapping[str, Any], kind: str | None = None) -> list[Fault]:
    """All that is wrong with this choice; ``classes`` 1 means a regression, unless ``kind`` says what the target is.

    Empty: `build` will take it, if the features fit.
    """
    if name not in available(framework):
        return [
            Fault(
                "model.name",
                say("{framework} has no model '{name}'", framework=framework, name=name),
                say("use one of {framework}, or `code`", framework=", ".join(available(framework))),
            )
        ]
    architecture = _find(framework, name)
    found = []
    target = kind or _TARGETS.get(classes, "multiclass")
    if target not in architecture.targets:
        fitting = [other for other, entry in _MODELS[framework].items() if target in entry.targets]
        found.append(
            Fault(
                "model.name",
                say("'{name}' is not for a {target} target", name=name, target=target),
                say("use one of {fitting}", fitting=", ".join(fitting) or say("those of torch")),
            )
        )
    try:
        architecture.options(**chosen)
    except ValidationError as error:
        valid = say("valid are {model_fields}", model_fields=", ".join(architecture.options.model_fields))
        for fault in faults_of(error):
            unknown = fault.place not in architecture.options.model_fields and "." not in fault.place and "[" not in fault.place
            found.append(Fault(f"model.options.{fault.place}", "no such option" if unknown else fault.problem, valid if unknown else fault.remedy))
    return found


def build(
    framework: str,
    name: str,
    feature_shape: tuple[int, ...],
    classes: int,
    chosen: Mapping[str, Any],
    kind: str | None = None,
    columns: int = 0,
) -> Any:
    """The named model for features of this shape: a torch ``nn.Module`` with one output for a binary target or a regression and one per
    class otherwise, a ``keras.Model`` with the same outputs, a numpy model (`aimer2.learners.numpy.Model`) or an estimator
    (`aimer2.learners.sklearn.Estimator`). ``columns``: how many of an image's channels, the last ones, are columns beside it.

    Raises BadModel where the name, an option or the features do not fit.
    """
    if found := faults(framework, name, classes, chosen, kind):
        raise BadModel("; ".join(str(fault) for fault in found))
    architecture = _find(framework, name)
    builder = getattr(importlib.import_module(f"aimer2.models.{architecture.module}"), architecture.builder)
    one = classes < 2 or (classes == 2 and kind not in ("multilabel", "survival", "segmentation"))
    return builder(feature_shape, 1 if one else classes, architecture.options(**chosen), *([columns] if columns else []))


def _find(framework: str, name: str) -> _Architecture:
    try:
        return _MODELS[framework][name]
    except KeyError:
        raise BadModel(
            say(
                "{framework} has no model '{name}': there are {available}.",
                framework=framework,
                name=name,
                available=", ".join(available(framework)) or say("none"),
            )
        ) from None
