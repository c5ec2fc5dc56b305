"""The study: one document that says the question, the data, the method, the sites and the terms.

The same document is written as ``study.toml``, built in Python as ``Study(...)``, shown to every hospital and hashed into the digest that a
hospital approves. This module knows its form; `aimer2.study.check` knows whether what it names exists.
"""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from aimer2.core.errors import BadStudy, Fault
from aimer2.core.task import Document, SiteId

NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
CODE = r"^[A-Za-z0-9_-]+\.py$"
WEIGHTS = r"^[A-Za-z0-9_.-]+\.safetensors$"
METHOD = r"^[a-z][a-z0-9_]*$"
Scalar = bool | int | float | str
ColumnName = Annotated[str, Field(min_length=1, max_length=100)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _unset(value: object) -> bool:
    """Whether a field that came after version 0.1 is left out: it is then not written, so that older studies keep their digests."""
    return value in ((), None)


def _refuse_doubles(categories: tuple[str, ...]) -> None:
    double = sorted({name for name in categories if categories.count(name) > 1})
    if double:
        raise ValueError(f"categories named twice: {', '.join(double)}")


class Feature(Document):
    """One column the model sees."""

    name: str = Field(min_length=1, max_length=100)
    kind: Literal["number", "category"] = "number"
    unit: str | None = Field(default=None, description="UCUM, for example mg/dL; a site whose column has another unit is refused or maps it")
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str, ...] = Field(default=(), description="all categories, in the order of their codes; the first is the reference")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "category" and len(set(self.categories)) < 2:
            raise ValueError("a category needs `categories` with at least two different entries")
        _refuse_doubles(self.categories)
        if self.kind == "number" and self.categories:
            raise ValueError("a number has no `categories`; set kind = 'category'")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError("`minimum` is larger than `maximum`")
        return self


class Target(Document):
    """What the model is to tell."""

    name: str = Field(min_length=1, max_length=100, description="the column; of survival that of the times; of multilabel a name for them all")
    kind: Literal["binary", "multiclass", "regression", "multilabel", "survival"] = "binary"
    categories: tuple[str, ...] = Field(
        default=(), description="the classes; of a binary target, a label or an event the second is the event. Empty: 0 and 1"
    )
    unit: str | None = None
    labels: tuple[ColumnName, ...] = Field(default=(), max_length=50, exclude_if=_unset, description="of multilabel: the columns, each binary")
    event: ColumnName | None = Field(default=None, exclude_if=_unset, description="of survival: the column that says whether the event was seen")
    intervals: tuple[Above0, ...] = Field(
        default=(), exclude_if=_unset, description="of survival: ends of the time intervals, common to all sites; none: Cox regression"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind in ("binary", "multilabel", "survival") and len(self.categories) not in (0, 2):
            raise ValueError(f"a {self.kind} target has two categories or none (then its values are 0 and 1)")
        if self.kind == "multiclass" and len(set(self.categories)) < 3:
            raise ValueError("a multiclass target needs at least three categories")
        if self.kind == "regression" and self.categories:
            raise ValueError("a regression target has no categories")
        _refuse_doubles(self.categories)
        return self

    @model_validator(mode="after")
    def _columns_of_its_kind(self) -> Self:
        if (self.kind == "multilabel") != bool(self.labels) or (self.kind == "multilabel" and len(self.labels) < 2):
            raise ValueError("`labels` names the two or more columns of a multilabel target, and of no other")
        if (self.kind == "survival") != (self.event is not None):
            raise ValueError("`event` names the column of a survival target that says whether the event was seen, and of no other")
        if self.kind != "survival" and self.intervals:
            raise ValueError("`intervals` belong to a survival target")
        if any(later <= earlier for earlier, later in pairwise(self.intervals)):
            raise ValueError("`intervals` are not in rising order")
        if self.kind == "multilabel" and self.unit is not None:
            raise ValueError("labels have no `unit`")
        return self

    @property
    def classes(self) -> int:
        """Number of classes, of labels, or of time intervals; 1 for a regression and for Cox regression."""
        return {"binary": 2, "multilabel": len(self.labels), "survival": max(1, len(self.intervals)), "regression": 1}.get(
            self.kind, len(self.categories)
        )

    @property
    def outputs(self) -> int:
        """How many numbers the model gives per row."""
        return 1 if self.kind == "binary" else self.classes

    @property
    def columns(self) -> tuple[Target, ...]:
        """Each column as a target of its own: the labels; the time and the event; itself."""
        if self.kind == "multilabel":
            return tuple(Target(name=label, categories=self.categories) for label in self.labels)
        if self.event is not None:
            return Target(name=self.name, kind="regression", unit=self.unit), Target(name=self.event, categories=self.categories)
        return (self,)


class Cohort(Document):
    """Whose data: a named data set at each site, what is read of it, how it is prepared."""

    dataset: str = Field(pattern=NAME, description="the name that each site has given its data set")
    unit: Literal["patient"] = "patient"
    features: tuple[Feature, ...] = Field(min_length=1)
    target: Target
    minimum_patients: int = Field(default=10, ge=1, description="a site with fewer is refused")
    missing: Literal["refuse", "drop", "mean", "zero", "keep"] = Field(
        default="refuse",
        description="a missing feature: refuse the site, drop the row, put the mean (a category: its own level 'missing' of all zeros), put zero, "
        "keep the gap, which trees alone can be grown on",
    )
    standardise: Literal["none", "site", "federated", "range"] = Field(
        default="federated",
        description="numbers to mean 0, standard deviation 1: by each site's own, or by all sites' together (sums travel); or from -1 at the "
        "feature's `minimum` to 1 at its `maximum`",
    )
    group: Feature | None = Field(
        default=None, exclude_if=_unset, description="a category by which patients fall into groups, such as sex or scanner; no input of the model"
    )

    @property
    def common_moments(self) -> bool:
        """Whether the sites first add up counts, sums and squared distances per column, for means and deviations in common."""
        return self.standardise == "federated" or (self.standardise in ("none", "range") and self.missing == "mean")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [feature.name for feature in self.features] + [column.name for column in self.target.columns]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ValueError(f"named more than once: {', '.join(double)}")
        if self.group is not None and self.group.kind != "category":
            raise ValueError("`group` is a category; give its `categories`")
        return self

    @model_validator(mode="after")
    def _ranged(self) -> Self:
        numbers = [feature for feature in self.features if feature.kind == "number"]
        if self.standardise == "range" and any(feature.minimum is None or feature.maximum is None for feature in numbers):
            raise ValueError("standardise = 'range' needs `minimum` and `maximum` of every number")
        return self


class Model(Document):
    """Which architecture: a named one, or `model.py` beside the study with a function ``build``."""

    framework: Literal["torch", "numpy", "keras", "sklearn", "trees"] = "torch"
    also: tuple[Literal["keras"], ...] = Field(
        default=(), max_length=1, exclude_if=_unset, description="frameworks with which a site that lacks torch can train the same named model"
    )
    name: str | None = Field(default=None, description="a model of `aimer2.models`")
    code: str | None = Field(default=None, pattern=CODE, description="a file beside the study with `build(features, classes)`")
    options: Mapping[str, Scalar | tuple[Scalar, ...]] = Field(default_factory=dict)
    weights: str | None = Field(
        default=None,
        pattern=WEIGHTS,
        exclude_if=_unset,
        description="a file beside the study with weights to start from; leaves that it lacks start untrained",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.name is None) == (self.code is None):
            raise ValueError("give either `name` or `code`")
        return self


class Training(Document):
    """How a site trains between two rounds."""

    optimiser: str = "sgd"
    learning_rate: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: str = Field(default="constant", description="constant, cosine, step: of the learning rate over the rounds")
    batch_size: int | None = Field(default=32, ge=1, description="none: all rows at once")
    local_epochs: float | None = Field(default=None, gt=0)
    local_steps: int | None = Field(default=None, ge=1)
    mixed_precision: bool = False
    accumulation: int | None = Field(
        default=None, ge=2, exclude_if=_unset, description="each step's batch goes through the model in so many parts, one at a time in memory"
    )
    class_weights: tuple[Above0, ...] = Field(
        default=(), exclude_if=_unset, description="factor of the loss, one per class; of multilabel one per label, for its presence"
    )
    ties: Literal["breslow", "efron"] | None = Field(
        default=None, exclude_if=_unset, description="of Cox regression: how tied times count; none: efron"
    )
    patience: int | None = Field(
        default=None, ge=1, exclude_if=_unset, description="stops after so many passes without a better loss on the validation part"
    )
    validation: float | None = Field(
        default=None, gt=0, lt=1, exclude_if=_unset, description="share of the training patients that early stopping looks at; none: 0.2"
    )

    @model_validator(mode="after")
    def _stops(self) -> Self:
        if self.validation is not None and self.patience is None:
            raise ValueError("`validation` serves early stopping: give `patience`")
        if self.patience is not None and self.local_steps is None and (self.local_epochs or 1) <= 1:
            raise ValueError("`patience` counts passes over the rows, and there is one only: raise `local_epochs`")
        return self

    @property
    def validation_share(self) -> float:
        """0 without early stopping."""
        return 0.0 if self.patience is None else 0.2 if self.validation is None else self.validation

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.local_epochs is not None and self.local_steps is not None:
            raise ValueError("give `local_epochs` or `local_steps`, not both (neither: one epoch)")
        return self

    def steps(self, rows: int) -> int:
        """Optimiser steps per round at a site with so many training rows."""
        if self.local_steps is not None:
            return self.local_steps
        per_epoch = 1 if self.batch_size is None else max(1, -(-rows // self.batch_size))
        return max(1, round((self.local_epochs or 1.0) * per_epoch))


class Method(Document):
    """Which algorithm, with its hyper-parameters."""

    name: str = Field(default="fedavg", pattern=METHOD)
    rounds: int = Field(default=10, ge=1, le=100_000)
    parameters: Mapping[str, Scalar] = Field(default_factory=dict)
    largest_change: float | None = Field(
        default=None, gt=0, exclude_if=_unset, description="L2 norm that a site's mean change of the model may have; its agent shortens a longer one"
    )
    aggregator: str = Field(default="weighted_mean", pattern=METHOD, description="what makes one update of the sites' updates")
    aggregator_parameters: Mapping[str, Scalar] = Field(default_factory=dict)


class Sites(Document):
    """Who is asked, how many must come, how long a round waits for the slowest."""

    names: tuple[SiteId, ...] = Field(default=(), description="empty: every site enrolled when the study is submitted")
    minimum: int = Field(default=2, ge=1, description="the study starts only with so many approvals")
    quorum: int | None = Field(default=None, ge=1, description="a round counts with so many answers; none: as many as `minimum`")
    deadline_seconds: float = Field(default=3600, gt=0, description="after this a round goes on without the late, if the quorum has answered")
    block: int = Field(default=16, ge=1, description="sites are added in blocks of so many: fixes the order of floating-point sums")

    @property
    def needed(self) -> int:
        return self.minimum if self.quorum is None else self.quorum


class Evaluation(Document):
    """What is measured on patients held out at each site."""

    held_out: float = Field(default=0.2, ge=0, lt=1)
    metrics: tuple[str, ...] = ()
    horizons: tuple[Above0, ...] = Field(
        default=(), exclude_if=_unset, description="of survival: times, each the end of an interval, at which predicted risks are judged"
    )
    release_per_site: bool = Field(default=False, description="each site's own figures are released once, at the end, and named in the result")


class DifferentialPrivacy(Document):
    """How much all that leaves a site may tell of one patient: ε and δ, or the noise they follow from. `aimer2.study.spending` computes either."""

    level: Literal["record", "site"] = Field(default="record", description="who is protected: one patient with all rows, or a whole site")
    epsilon: float | None = Field(default=None, gt=0, description="of the whole study; the noise is calibrated to it")
    delta: float | None = Field(default=None, gt=0, lt=1)
    noise_multiplier: float | None = Field(default=None, gt=0, description="standard deviation of the noise in units of `clip_norm`")
    clip_norm: float | None = Field(default=None, gt=0, description="largest L2 norm of one patient's part in a step")
    sampling_rate: float | None = Field(default=None, gt=0, le=1, description="chance of each patient of a site to be in a step")
    evaluation_noise: float = Field(default=5.0, gt=0, description="standard deviation of the noise on counts of held-out patients")
    asserted: bool = Field(default=False, description="code of the researcher computes the gradients, so ε is the researcher's word")


class Privacy(Document):
    """The terms. What is asked for here and is not available is refused, never ignored."""

    secure_aggregation: bool = Field(default=True, description="nobody sees a single site's update, only the sum of all")
    why_not_secure: str = Field(default="", max_length=500, description="without secure aggregation: the reason, for every hospital to read")
    differential_privacy: DifferentialPrivacy | None = None


class Study(Document):
    """A federated study: what is asked, of whom, how, under which terms."""

    version: Literal[1] = 1
    name: str = Field(pattern=NAME)
    question: str = Field(min_length=10, max_length=2000)
    purpose: str = Field(min_length=3, max_length=2000)
    ethics: str = Field(min_length=1, max_length=200, description="reference of the ethics approval, or why none is needed")
    principal_investigator: str = Field(min_length=3, max_length=200)
    expires: AwareDatetime | datetime.date
    seed: int = Field(default=1, ge=0, lt=2**63)
    requires: Mapping[str, str] = Field(default_factory=dict, description="package = the versions each site must have: torch = '>=2.4'")
    cohort: Cohort
    model: Model
    training: Training = Training()
    method: Method = Method()
    sites: Sites = Sites()
    evaluation: Evaluation = Evaluation()
    privacy: Privacy = Privacy()

    def __init__(self, **fields: Any) -> None:
        """Raises BadStudy with every fault of form at once."""
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise BadStudy(faults_of(error)) from None

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics it names, or the usual ones for its kind of target."""
        judged = ("brier", "calibration_in_the_large") if self.evaluation.horizons else ()
        return self.evaluation.metrics or _USUAL_METRICS[self.cohort.target.kind] + judged

    @property
    def parts(self) -> tuple[str, ...]:
        """What a figure in several parts is told for: each label, each horizon."""
        return self.cohort.target.labels or tuple(f"{horizon:g}" for horizon in self.evaluation.horizons)

    @property
    def expires_at(self) -> float:
        """The moment, in seconds since 1970 UTC; a day counts to its end."""
        if isinstance(self.expires, datetime.datetime):
            return self.expires.timestamp()
        return datetime.datetime.combine(self.expires, datetime.time.max, datetime.UTC).timestamp()


def read_study(path: Path) -> Study:
    """The study in a TOML file.

    Raises BadStudy with all faults.
    """
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise BadStudy([Fault(str(path), "there is no such file", "give the path of a study.toml")]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadStudy([Fault(path.name, f"not TOML: {error}", "correct the line; https://toml.io has the syntax")]) from None
    return Study(**fields)


_USUAL_METRICS = {
    "binary": ("auc", "sensitivity", "specificity", "accuracy"),
    "multiclass": ("accuracy", "balanced_accuracy"),
    "regression": ("rmse", "mae", "r2"),
    "multilabel": ("auc", "auc_micro", "auc_by_label", "hamming_accuracy", "accuracy"),
    "survival": ("concordance",),
}

_REMEDIES = {
    "missing": "add it",
    "extra_forbidden": "remove it, or look for the right spelling in docs/study-file.md",
    "literal_error": "use one of the listed values",
    NAME: "use lower-case letters, digits and '-'",
    METHOD: "use lower-case letters, digits and '_'",
    CODE: "name a file beside the study, for example model.py",
    WEIGHTS: "name a file beside the study, for example base.safetensors",
}

_ALTERNATIVES = {
    "datetime": ("is neither a date nor a moment with its time zone", "write 2030-06-30 or 2030-06-30T12:00:00Z"),
    "date": ("is neither a date nor a moment with its time zone", "write 2030-06-30 or 2030-06-30T12:00:00Z"),
    **dict.fromkeys(("bool", "int", "float", "str", "tuple"), ("is not a number, a text, true or false, nor a list of them", "correct the value")),
}
"""Where a value may be of several types, the type tried last in a fault's place: what to say once instead of once for each."""


def faults_of(error: ValidationError) -> list[Fault]:
    """Every fault that pydantic found, with its place in the document."""
    faults = []
    for found in error.errors(include_url=False, include_input=False):
        location, tried = _place(found["loc"])
        place = ".".join(f"[{part + 1}]" if isinstance(part, int) else part for part in location).replace(".[", "[")
        kind = found.get("ctx", {}).get("pattern", found["type"])
        problem = {"missing": "is missing", "extra_forbidden": "is not a field of a study"}.get(kind, found["msg"].removeprefix("Value error, "))
        told = _ALTERNATIVES[tried] if tried else (problem, _REMEDIES.get(kind, "correct the value"))
        faults.append(Fault(place or "study", *told))
    return list(dict.fromkeys(faults))


def _place(location: tuple[int | str, ...]) -> tuple[tuple[int | str, ...], str]:
    """The place in the document, and the type that was tried there where there is a choice."""
    for depth, part in enumerate(location[1:], 1):
        name = str(part).partition("[")[0]
        if name in _ALTERNATIVES:
            return location[:depth], name
    return location, ""
