"""The document itself, and reading it from a file."""

from __future__ import annotations

import datetime
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, Field, ValidationError

from aimer2.core.errors import BadStudy, Fault
from aimer2.core.study.cohort import Cohort
from aimer2.core.study.faults import faults_of
from aimer2.core.study.fields import NAME
from aimer2.core.study.terms import Evaluation, Privacy, Sites
from aimer2.core.study.training import Method, Model, Training
from aimer2.core.task import Document


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
