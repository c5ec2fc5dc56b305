"""Whose data a study reads, and which columns: features, target, groups, and how they are prepared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from aimer2.core.study.fields import NAME, Above0, ColumnName, Present, unset
from aimer2.core.study.image import Image
from aimer2.core.task import Document


def _doubles(names: Iterable[str]) -> str:
    return ", ".join(sorted(name for name, times in Counter(names).items() if times > 1))


def _refuse_doubles(categories: tuple[str, ...]) -> None:
    if double := _doubles(categories):
        raise ValueError(f"categories named twice: {double}")


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

    @property
    def width(self) -> int:
        """How many numbers the model sees of it: of a category one per level but the first."""
        return len(self.categories) - 1 if self.kind == "category" else 1


class Target(Document):
    """What the model is to tell."""

    name: str = Field(min_length=1, max_length=100, description="the column; of survival that of the times; of multilabel a name for them all")
    kind: Literal["binary", "multiclass", "regression", "multilabel", "survival", "segmentation"] = "binary"
    categories: tuple[str, ...] = Field(
        default=(),
        description="the classes; of a binary target, a label or an event the second is the event, of pixels the first is background. Empty: 0 and 1",
    )
    unit: str | None = None
    minimum: float | None = Field(
        default=None, exclude_if=unset, description="of a regression under differential privacy: figures take a smaller value for this one"
    )
    maximum: float | None = Field(default=None, exclude_if=unset, description="and a larger one for this")
    labels: tuple[ColumnName, ...] = Field(default=(), max_length=50, exclude_if=unset, description="of multilabel: the columns, each binary")
    event: ColumnName | None = Field(default=None, exclude_if=unset, description="of survival: the column that says whether the event was seen")
    intervals: tuple[Above0, ...] = Field(
        default=(), exclude_if=unset, description="of survival: ends of the time intervals, common to all sites; none: Cox regression"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind in ("binary", "multilabel", "survival") and len(self.categories) not in (0, 2):
            raise ValueError(f"a {self.kind} target has two categories or none (then its values are 0 and 1)")
        if self.kind == "multiclass" and len(set(self.categories)) < 3:
            raise ValueError("a multiclass target needs at least three categories")
        if self.kind == "segmentation" and len(set(self.categories)) < 2:
            raise ValueError("a segmentation target needs at least two categories, the background first")
        if self.kind == "regression" and self.categories:
            raise ValueError("a regression target has no categories")
        if (self.minimum is None) != (self.maximum is None) or (self.minimum is not None and self.kind != "regression"):
            raise ValueError("`minimum` and `maximum` are the range of a regression target: give both or none")
        if self.minimum is not None and self.maximum is not None and not self.minimum < self.maximum:
            raise ValueError("`minimum` is not smaller than `maximum`")
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
    def span(self) -> tuple[float, float] | None:
        """The stated range of a regression."""
        return None if self.minimum is None or self.maximum is None else (self.minimum, self.maximum)

    @property
    def outputs(self) -> int:
        """How many numbers the model gives per row."""
        return 1 if self.kind == "binary" else self.classes

    @property
    def columns(self) -> tuple[Target, ...]:
        """Each column as a target of its own: the labels; the time and the event; itself; none of a study that trains no model."""
        if not self.name:
            return ()
        if self.kind == "multilabel":
            return tuple(Target(name=label, categories=self.categories) for label in self.labels)
        if self.event is not None:
            return Target(name=self.name, kind="regression", unit=self.unit), Target(name=self.event, categories=self.categories)
        return (self,)


NO_TARGET = Target.model_construct(name="")
"""Of a study that trains no model. No document can say this."""


def _without_target(target: Target) -> bool:
    return not target.name


class Cohort(Document):
    """Whose data: a named data set at each site, what is read of it, how it is prepared."""

    dataset: str = Field(pattern=NAME, description="the name that each site has given its data set")
    unit: Literal["patient"] = "patient"
    image: Image | None = Field(default=None, exclude_if=unset, description="the model sees images, alone or beside `features`")
    features: Annotated[tuple[Feature, ...], Present, Field(min_length=1)] = Field(default=(), exclude_if=unset)
    target: Annotated[Target, Present] = Field(default=NO_TARGET, exclude_if=_without_target)
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
        default=None, exclude_if=unset, description="a category by which patients fall into groups, such as sex or scanner; no input of the model"
    )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The columns that the model sees."""
        return (*(() if self.image is None else (self.image.name,)), *(feature.name for feature in self.features))

    @property
    def common_moments(self) -> bool:
        """Whether the sites first add up counts, sums and squared distances per column, for means and deviations in common."""
        if not self.features:
            return False
        return self.standardise == "federated" or (self.standardise in ("none", "range") and self.missing == "mean")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [feature.name for feature in self.features] + [column.name for column in self.target.columns]
        names += [] if self.image is None else [self.image.name]
        if double := _doubles(names):
            raise ValueError(f"named more than once: {double}")
        if self.group is not None and self.group.kind != "category":
            raise ValueError("`group` is a category; give its `categories`")
        return self

    @model_validator(mode="after")
    def _ranged(self) -> Self:
        numbers = [feature for feature in self.features if feature.kind == "number"]
        if self.standardise == "range" and any(feature.minimum is None or feature.maximum is None for feature in numbers):
            raise ValueError("standardise = 'range' needs `minimum` and `maximum` of every number")
        return self
