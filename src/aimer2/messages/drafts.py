"""Studies that are still being written: kept at the coordinator for their author alone, seen by no site."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from aimer2.core.task import Digest, Document
from aimer2.messages.wire import FaultDocument


class DraftText(Document):
    """What an author saves; it may have faults."""

    name: str = Field(min_length=1, max_length=63, description="to find it again")
    text: str = Field(max_length=1 << 20, description="the study as TOML, as `study.toml` holds it; at most 1 MiB")
    files: Mapping[str, str] = Field(default_factory=dict, description="code beside it: `model.py`; at most 50 files, 1 MiB together")
    supersedes: Digest | None = Field(default=None, description="the study of which it is to be a new version")


class DraftChange(DraftText):
    """A change of a draft that was read at ``revision``: refused where somebody has changed it since."""

    revision: int = Field(ge=1)


class Draft(DraftText):
    id: str
    revision: int
    made: float
    changed: float


class DraftEntry(Document):
    """A line of the list of drafts."""

    id: str
    name: str
    supersedes: Digest | None = None
    revision: int
    made: float
    changed: float


class DraftFaults(Document):
    """Everything that speaks against submitting it as it stands, as far as a coordinator can tell without building its model."""

    faults: tuple[FaultDocument, ...]


class Archive(Document):
    archived: bool = Field(description="false: back into the lists")
