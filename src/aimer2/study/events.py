"""What happens in a study, as one stream: log, audit, progress bar, metrics and live view all read this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from aimer2.core.task import BlobRef, Check, Document, FigureDocument, SiteId, Stage, Telling


class Absence(Telling):
    """A site of the study that has no part in a round. One that could not be asked, for want of an approval that holds, counts as refused."""

    site: SiteId
    outcome: Literal["refused", "failed", "late"]
    code: str = ""
    reason: str = ""
    signed: str = Field(default="", exclude_if=lambda text: not text, description="of a refusal: under the site's signature, a Refused as JWS")


class StudyStarted(Document):
    kind: Literal["study-started"] = "study-started"
    time: float
    sites: tuple[SiteId, ...]
    resumed: bool = False


class StageStarted(Document):
    kind: Literal["stage-started"] = "stage-started"
    time: float
    stage: Stage
    rounds: int


class RoundStarted(Document):
    kind: Literal["round-started"] = "round-started"
    time: float
    stage: Stage
    round_number: int
    rounds: int
    attempt: int = 1
    sites: tuple[SiteId, ...]


class ReplyReceived(Telling):
    kind: Literal["reply-received"] = "reply-received"
    time: float
    stage: Stage
    round_number: int
    site: SiteId
    outcome: Literal["answer", "refusal", "failure"]
    code: str = ""
    reason: str = ""
    checks: tuple[Check, ...] = ()
    seconds: float
    signed: str = Field(default="", exclude_if=lambda text: not text, description="as in an Absence")


class RoundStalled(Document):
    """The deadline has passed and too few have answered: the study waits, loses nothing, and says for whom."""

    kind: Literal["round-stalled"] = "round-stalled"
    time: float
    stage: Stage
    round_number: int
    answered: tuple[SiteId, ...]
    waiting_for: tuple[SiteId, ...]
    needed: int


class RoundRepeated(Telling):
    """The round's sum could not be made, nothing was learnt, and its sites are asked again."""

    kind: Literal["round-repeated"] = "round-repeated"
    time: float
    stage: Stage
    round_number: int
    attempt: int
    reason: str


class Secrecy(Document):
    """Of a sum that was made in secret: what that cost in precision."""

    saturated: int = Field(description="values of all sites that were larger than their range and were clipped to it")
    error: float = Field(description="the most that rounding moved a coordinate of the sum, relative to the sum of the sites' largest values")


class Traffic(Document):
    """Bytes of blobs between the coordinator and one site in one round: models on the way down, updates on the way up."""

    sent: int = Field(description="what the site's task offers, without what the site has from the round before")
    received: int = Field(description="of the answer that counted")


class RoundFinished(Document):
    kind: Literal["round-finished"] = "round-finished"
    time: float
    stage: Stage
    round_number: int
    rounds: int
    attempt: int = 1
    seconds: float
    took_part: tuple[SiteId, ...]
    absent: tuple[Absence, ...] = ()
    figures: tuple[FigureDocument, ...] = Field(default=(), description="pooled over the sites; of the model that this round received")
    released: Mapping[SiteId, tuple[FigureDocument, ...]] = Field(default_factory=dict, description="each site's own, where the study releases them")
    bytes_received: int = Field(default=0, description="of all sites together, as `traffic` has it for each")
    bytes_sent: int = 0
    traffic: Mapping[SiteId, Traffic] = Field(default_factory=dict, description="of each site that was asked")
    secrecy: Secrecy | None = Field(default=None, description="where nobody saw a single site's update")
    model: BlobRef | None = None


class StudyPaused(Telling):
    kind: Literal["study-paused"] = "study-paused"
    time: float
    reason: str


class StudyStopped(Telling):
    kind: Literal["study-stopped"] = "study-stopped"
    time: float
    reason: str


class StudyFinished(Document):
    kind: Literal["study-finished"] = "study-finished"
    time: float
    result: Mapping[str, Any]


Event: TypeAlias = Annotated[
    StudyStarted
    | StageStarted
    | RoundStarted
    | ReplyReceived
    | RoundStalled
    | RoundRepeated
    | RoundFinished
    | StudyPaused
    | StudyStopped
    | StudyFinished,
    Field(discriminator="kind"),
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
