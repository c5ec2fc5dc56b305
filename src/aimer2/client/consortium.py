"""The consortium as its people see it: members, invitations, agreements."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import final

from aimer2.client.transport import Transport, parse
from aimer2.messages.consortium import (
    Agreement,
    InvitationRequest,
    InvitationStatus,
    MadeInvitation,
    Member,
    NewAcceptance,
    NewAgreement,
    OffBoarded,
    OffBoarding,
)


@final
class Consortium:
    """`Coordinator.consortium`. Who may do what stands in docs/people.md; what is not allowed raises NotAllowed."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def members(self) -> list[Member]:
        """The hospitals, present and past."""
        return parse(list[Member], self._transport.ask("GET", "/v1/members"))

    def invitations(self) -> list[InvitationStatus]:
        """Who was invited by whom."""
        return parse(list[InvitationStatus], self._transport.ask("GET", "/v1/invitations"))

    def invite(self, site: str) -> MadeInvitation:
        """An invitation for one site, good once, shown this once. Raises Conflict where the site is enrolled already."""
        return parse(MadeInvitation, self._transport.ask("POST", "/v1/invitations", InvitationRequest(site=site)))

    def revoke_invitation(self, identifier: str) -> InvitationStatus:
        """Takes an open invitation back. Raises NotFound, Conflict."""
        return parse(InvitationStatus, self._transport.ask("DELETE", f"/v1/invitations/{identifier}"))

    def off_board(self, site: str, reason: str) -> OffBoarded:
        """A hospital leaves, at once. Raises NotFound, Conflict where it has left already."""
        return parse(OffBoarded, self._transport.ask("POST", f"/v1/members/{site}/off-boarding", OffBoarding(reason=reason)))

    def agreements(self) -> list[Agreement]:
        """What is before the members, and who has accepted it."""
        return parse(list[Agreement], self._transport.ask("GET", "/v1/agreements"))

    def add_agreement(self, document: Path, *, title: str, dated: str) -> Agreement:
        """Puts a document before the members; only its SHA-256 is sent. ``dated``: year-month-day. Raises Conflict."""
        new = NewAgreement(digest=digest_of(document), title=title, dated=dated)
        return parse(Agreement, self._transport.ask("POST", "/v1/agreements", new))

    def accept(self, document: Path, *, by: str) -> Agreement:
        """Records that the named person has accepted exactly this document for one's own hospital. Raises NotFound, Conflict."""
        return parse(Agreement, self._transport.ask("POST", f"/v1/agreements/{digest_of(document)}/acceptances", NewAcceptance(by=by)))


def digest_of(document: Path) -> str:
    with document.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
