"""What a site tells of itself beside its updates, each signed by it (JWS): what it has charged to a study, what its data sets hold, what it will
not do."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from aimer2.core.task import Digest, Document, SiteId, Telling

SPENDING, DESCRIPTION, REFUSAL = "spending", "data-description", "refusal"
"""Kinds of the signed documents."""


class Told(Document):
    statement: str = Field(max_length=1 << 20, description="a Spending or a DataPublished as JWS, signed by the site")


class Spending(Document):
    """What a site's privacy ledger has charged to one study; of the budget, and of other studies, nothing."""

    study: Digest
    site: SiteId
    epsilon: float = Field(ge=0, description="of each patient of the site, by this study alone, at its own δ")
    delta: float = Field(gt=0, lt=1)
    tasks: int = Field(ge=0, description="that were charged")
    time: float


class Refused(Telling):
    """What a site will not do for a study; the values of the reason stand in ``words``."""

    study: str
    task: str
    attempt: int
    site: SiteId
    code: str
    reason: str
    time: float


class PublishedColumn(Document):
    """A column in words and coarse counts: `35`, or `<10`."""

    name: str = Field(max_length=300)
    kind: str = Field(max_length=20)
    unit: str | None = Field(default=None, max_length=100)
    missing: str = Field(max_length=20)
    form: str = Field(default="", max_length=100)
    categories: Mapping[str, str] = Field(default_factory=dict)


class DataPublished(Document):
    """What a named person of a hospital lets the consortium know of a data set: no value of a patient."""

    site: SiteId
    dataset: str = Field(max_length=63)
    by: str = Field(min_length=1, max_length=200)
    time: float
    published: bool = Field(default=True, description="false: taken back")
    rows: str = Field(default="", max_length=20)
    patients: str = Field(default="", max_length=20)
    columns: tuple[PublishedColumn, ...] = Field(default=(), max_length=5000)
