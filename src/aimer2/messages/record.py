"""A finished study as it is handed on: with all that its record rests on, so that anybody can check it without a network."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from aimer2.core.study.fields import unset
from aimer2.core.task import BlobRef, Digest, Document, FigureDocument, SiteId
from aimer2.messages.package import Package

ModelStage: TypeAlias = Literal["candidate", "validated", "released", "retired"]
"""candidate: a study has ended with it. validated: somebody has judged it on other patients. released: everybody at the coordinator may take it.
retired: not to be used any more."""

STAGE_KIND = "stage"
"""Of a signed `StageChange`."""


class StageChange(Document):
    """Who has moved a model to which stage, and why; signed by the coordinator (JWS of kind `stage`)."""

    study: Digest
    model: Digest = Field(description="SHA-256 of the weights")
    stage: ModelStage
    by: str
    reason: str
    time: float


class StageRequest(Document):
    """What a person asks for."""

    stage: Literal["validated", "released", "retired"]
    reason: str = Field(min_length=3, max_length=500)


class EvaluationSummary(Document):
    """A finished study that has measured a version of a model."""

    study: Digest
    name: str
    finished: float
    submitted_by: str
    sites: tuple[SiteId, ...] = Field(description="whose patients are in the figures")
    dataset: str
    held_out: float = Field(description="the share of each data set's patients that was measured; 1: all")
    figures: tuple[FigureDocument, ...] = ()


class ModelSummary(Document):
    """One version of a model: what the study of this digest has ended with."""

    study: Digest
    name: str
    number: int = Field(description="counts from 1 among the finished studies of this name, in the order of their ends")
    question: str
    stage: ModelStage
    finished: float
    submitted_by: str
    model: BlobRef
    method: str
    sites: int = Field(description="that took part in training")
    epsilon: float | None = None
    figures: tuple[FigureDocument, ...] = ()
    evaluations: tuple[EvaluationSummary, ...] = Field(default=(), description="by studies of their own, the oldest first")


class StudyRecord(Document):
    """A finished study: the document, whom it asked, what each site has signed, the signed result, the stages of its model."""

    format: Literal[1] = 1
    study: Digest
    package: Package
    decisions: tuple[str, ...] = Field(description="the last decision of each site, as JWS that the site has signed")
    result: str = Field(description="JWS of kind `result`, signed by the coordinator")
    stages: tuple[str, ...] = Field(default=(), description="each a `StageChange` as JWS, the oldest first")
    evaluations: tuple[str, ...] = Field(
        default=(), exclude_if=unset, description="of the studies that have measured its model: their results, as `result` is, the oldest first"
    )
    key: str = Field(description="the coordinator's signing key as it says itself: compare it with the one that you know")
