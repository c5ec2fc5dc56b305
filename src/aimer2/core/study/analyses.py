"""The locked analysis plan: statistical questions that a study asks in place of training a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

from pydantic import Field, model_validator

from aimer2.core.study.cohort import Feature
from aimer2.core.study.fields import METHOD, NAME, Scalar
from aimer2.core.study.formula import Formula, Variable, parse
from aimer2.core.task import Document


class Analysis(Document):
    """One question: a method of `aimer2.statistics` over the columns that its formula names."""

    name: str = Field(default="main", pattern=NAME, description="what its answer is called in the result")
    method: str = Field(pattern=METHOD)
    formula: str = Field(min_length=1, max_length=2000)
    rounds: int = Field(default=30, ge=1, le=1000, description="at most so many; a method that has converged asks no more")
    options: Mapping[str, Scalar | tuple[Scalar, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _parsed(self) -> Self:
        parse(self.formula)
        return self

    @property
    def parsed(self) -> Formula:
        return parse(self.formula)


def features_of(formulas: Sequence[Formula], listed: Sequence[Feature]) -> tuple[Feature, ...]:
    """The columns listed, then those that formulas name besides: as numbers, or as the categories that ``C(…)`` gives.

    Raises ValueError for a category whose categories are nowhere given.
    """
    known = {feature.name: feature for feature in listed}
    for variable in (one for formula in formulas for one in formula.variables):
        found = known.get(variable.name)
        if found is None or (variable.levels and variable.name not in {feature.name for feature in listed}):
            known[variable.name] = _feature(variable, found)
    lacking = sorted({one.name for formula in formulas for one in formula.variables if one.is_category and known[one.name].kind != "category"})
    if lacking:
        remedy = 'list the column in `cohort.features`, or write C(name, "a", "b")'
        raise ValueError(f"the categories of {', '.join(lacking)} are not given: {remedy}")
    return tuple(known.values())


def _feature(variable: Variable, found: Feature | None) -> Feature:
    if variable.levels:
        return Feature(name=variable.name, kind="category", categories=variable.levels)
    return found or Feature(name=variable.name)
