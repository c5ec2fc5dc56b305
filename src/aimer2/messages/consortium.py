"""The bodies of requests about the consortium: its members, invitations, and what they have agreed on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aimer2.core.task import Digest, Document, SiteId


class InvitationRequest(Document):
    site: SiteId


class InvitationStatus(Document):
    """Who was invited by whom; never the code."""

    id: str
    site: SiteId
    made: float
    made_by: str
    expires: float
    state: Literal["open", "used", "expired", "revoked"]
    revoked_by: str = ""


class MadeInvitation(Document):
    text: str = Field(description="what the hospital enrols with: shown this once, handed over like a password")
    status: InvitationStatus


class Acceptance(Document):
    """That a hospital has accepted an agreement."""

    site: SiteId
    by: str = Field(description="the named person who has accepted it for the hospital")
    recorded_by: str = Field(description="the account that has said so: of that hospital's people")
    accepted: float


class Agreement(Document):
    """A document that the members agree on; it lies elsewhere."""

    digest: Digest
    title: str
    dated: str
    added_by: str
    added: float
    acceptances: tuple[Acceptance, ...] = ()


class NewAgreement(Document):
    digest: Digest = Field(description="SHA-256 of the document")
    title: str = Field(min_length=1, max_length=300)
    dated: str = Field(pattern=r"^\d{4}-\d\d-\d\d$", description="the document's own date")


class NewAcceptance(Document):
    by: str = Field(min_length=2, max_length=200, description="the named person who accepts for the hospital")


class Member(Document):
    """A hospital of the consortium, present or past."""

    site: SiteId
    key: str
    enrolled: float
    invited_by: str = ""
    left: float | None = Field(default=None, description="its key is refused since")
    left_by: str = ""
    left_reason: str = ""
    agreements: tuple[Digest, ...] = Field(default=(), description="what it has accepted")


class OffBoarding(Document):
    reason: str = Field(min_length=3, max_length=500)


class OffBoarded(Document):
    member: Member
    studies: tuple[Digest, ...] = Field(description="open studies that go on without it, or wait")
