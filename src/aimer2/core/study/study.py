"""The document itself, and reading it from a file."""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from aimer2.core.errors import BadStudy, Fault
from aimer2.core.said import say
from aimer2.core.study.analyses import Analysis, features_of
from aimer2.core.study.cohort import Cohort, Feature
from aimer2.core.study.faults import faults_of
from aimer2.core.study.fields import NAME, Present, unset
from aimer2.core.study.terms import Evaluation, Privacy, Sites
from aimer2.core.study.training import NO_MODEL, Method, Model, Training, without_model
from aimer2.core.task import Digest, Document

EVALUATION = "evaluation"
"""What a study that measures a model is called where others name their method."""


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
    analyses: tuple[Analysis, ...] = Field(default=(), max_length=50, exclude_if=unset, description="statistical questions in place of a model")
    evaluates: Digest | None = Field(
        default=None, exclude_if=unset, description="in place of a method: the study whose model is measured; nothing is trained"
    )
    model: Annotated[Model, Present] = Field(default=NO_MODEL, exclude_if=without_model)
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

    @model_validator(mode="before")
    @classmethod
    def _one_of_two(cls, fields: Any) -> Any:
        """A study that asks no statistical question trains a model: what that needs is missing where it is not there."""
        if not isinstance(fields, Mapping) or fields.get("analyses"):
            return fields
        cohort = fields.get("cohort")
        if isinstance(cohort, Mapping):
            seen = {} if cohort.get("image") else {"features": None}
            cohort = {**seen, "target": None, **cohort}
        return {"model": None, **fields} | ({} if cohort is None else {"cohort": cohort})

    @model_validator(mode="after")
    def _only_one(self) -> Self:
        if self.evaluates is not None and self.method != Method():
            raise ValueError("`evaluates` measures a model that is there, and trains none: leave out method")
        if not self.analyses:
            return self
        training = ("evaluates", "model", "training", "method", "evaluation")
        given = [name for name in training if getattr(self, name) != type(self).model_fields[name].default]
        given += ["cohort.target"] if self.cohort.target.columns else []
        given += [f"cohort.{name}" for name in ("group", "image") if getattr(self.cohort, name) is not None]
        if given:
            raise ValueError(f"`analyses` stand in place of a model to train: leave out {', '.join(given)}")
        names = [analysis.name for analysis in self.analyses]
        if len(set(names)) < len(names):
            raise ValueError("two analyses have the same `name`")
        features_of([analysis.parsed for analysis in self.analyses], self.cohort.features)
        return self

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Of a study that trains no model, nothing that speaks of training; of one that measures a model, no method."""
        document: dict[str, Any] = write(self)
        absent = ("training", "method", "evaluation") if self.analyses else ("method",) if self.evaluates is not None else ()
        return {name: value for name, value in document.items() if name not in absent}

    @property
    def columns(self) -> tuple[Feature, ...]:
        """The columns that are read besides a target: the cohort's features, then those that statistical questions name besides."""
        if not self.analyses:
            return self.cohort.features
        return features_of([analysis.parsed for analysis in self.analyses], self.cohort.features)

    @property
    def reads(self) -> tuple[str, ...]:
        """Every column that it reads, by name."""
        cohort = self.cohort
        others = (cohort.group, cohort.image)
        return tuple(one.name for one in (*self.columns, *(one for one in others if one is not None), *cohort.target.columns))

    @property
    def methods(self) -> tuple[str, ...]:
        """What computes: the method of training, those of the analyses, or evaluation."""
        if self.evaluates is not None:
            return (EVALUATION,)
        return tuple(dict.fromkeys(analysis.method for analysis in self.analyses)) or (self.method.name,)

    @property
    def rounds(self) -> int:
        """At most so many that compute."""
        return 1 if self.evaluates is not None else max((analysis.rounds for analysis in self.analyses), default=self.method.rounds)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics it names, or the usual ones for its kind of target."""
        judged = ("brier", "calibration_in_the_large") if self.evaluation.horizons else ()
        return self.evaluation.metrics or _USUAL_METRICS[self.cohort.target.kind] + judged

    @property
    def parts(self) -> tuple[str, ...]:
        """What a figure in several parts is told for: each label, each horizon, each class of pixels."""
        target = self.cohort.target
        if target.kind == "segmentation":
            return target.categories
        return target.labels or tuple(f"{horizon:g}" for horizon in self.evaluation.horizons)

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
        raise BadStudy([Fault(path.name, say("not TOML: {error}", error=error), "correct the line; https://toml.io has the syntax")]) from None
    return Study(**fields)


_USUAL_METRICS = {
    "binary": ("auc", "sensitivity", "specificity", "accuracy"),
    "multiclass": ("accuracy", "balanced_accuracy"),
    "regression": ("rmse", "mae", "r2"),
    "multilabel": ("auc", "auc_micro", "auc_by_label", "hamming_accuracy", "accuracy"),
    "survival": ("concordance",),
    "segmentation": ("dice", "iou", "dice_by_class", "image_dice"),
}
