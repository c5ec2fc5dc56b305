"""What pages ask the coordinator for: all studies and sites in one short answer, and what each site has to do just now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from aimer2.core.task import Digest, Document, Phase, SiteId, Stage
from aimer2.messages.wire import StudyState

Decided = Literal["waiting", "approve", "refuse", "withdraw"]


class StudyLine(Document):
    """A study in one line, of those that the person may see."""

    digest: Digest
    name: str
    state: StudyState
    reason: str = ""
    submitted_by: str
    submitted: float
    expires: float
    round_number: int
    rounds: int
    method: str
    decisions: Mapping[SiteId, Decided] = Field(description="of each site that is asked")
    secure: bool = Field(description="nobody sees a single site's update")
    epsilon_asked: float | None = None
    archived: bool = Field(default=False, description="it has ended, and is left out of lists")


class SiteLine(Document):
    """A site in one line."""

    site: SiteId
    online: bool
    revoked: bool
    enrolled: float
    last_contact: float | None
    version: str = Field(default="", description="of AIMER2 at the site, as it says itself")
    clock_skew_seconds: float | None = Field(default=None, description="its clock less the coordinator's")


class Overview(Document):
    name: str = Field(description="of the coordinator")
    version: str
    time: float
    studies: tuple[StudyLine, ...] = Field(description="oldest first")
    sites: tuple[SiteLine, ...]


class SiteWork(Document):
    """A task that a site has not answered yet."""

    site: SiteId
    stage: Stage
    round_number: int
    attempt: int
    phase: Phase
    state: Literal["waiting", "at work", "uploading"] = Field(description="waiting: the site has not fetched it yet")
