"""Who makes up the consortium: its hospitals, whom it invites, what they have agreed on."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.access import asker_of
from aimer2.coordinator.http.bodies import SMALL_BODY, described, read_document
from aimer2.coordinator.http.session_api import NO_STORE, no_script
from aimer2.coordinator.permissions import Action, Reach, reach_of
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
from aimer2.messages.wire import SiteStatus


def consortium_routes(coordinator: Coordinator) -> APIRouter:
    routes = APIRouter(tags=["consortium"])
    consortium = coordinator.consortium

    @routes.get("/v1/sites")
    async def sites(request: Request) -> list[SiteStatus]:
        """Every site that has enrolled, whether it is there, and what it said of itself; to the people of a hospital only their own."""
        asker = asker_of(request)
        only_own = reach_of(asker.role, Action.SEE_SITES) is Reach.SITE
        return [_status(coordinator, site) for site in coordinator.registry.sites if not only_own or site == asker.site]

    def is_shown(request: Request, site: str) -> bool:
        """To the people of a hospital only what is their own."""
        asker = asker_of(request)
        return reach_of(asker.role, Action.SEE_CONSORTIUM) is not Reach.SITE or site == asker.site

    def shown(request: Request, agreement: Agreement) -> Agreement:
        return agreement.model_copy(update={"acceptances": tuple(one for one in agreement.acceptances if is_shown(request, one.site))})

    @routes.get("/v1/members")
    async def members(request: Request) -> list[Member]:
        """The hospitals of the consortium, present and past; to the people of a hospital only their own."""
        return [member for member in await consortium.members() if is_shown(request, member.site)]

    @routes.post("/v1/members/{site}/off-boarding", openapi_extra=described(OffBoarding))
    async def off_board(request: Request, site: str) -> OffBoarded:
        """A hospital leaves: its key is refused at once, its open tasks are answered for it, open studies go on without it. Its past stays."""
        by = no_script(request).user
        return await consortium.off_board(site, by, (await read_document(request, OffBoarding, SMALL_BODY)).reason)

    @routes.get("/v1/invitations")
    async def invitations(request: Request) -> list[InvitationStatus]:
        """Who was invited by whom, and what has become of it; never a code."""
        return [each for each in await consortium.invitations() if is_shown(request, each.site)]

    @routes.post("/v1/invitations", status_code=201, openapi_extra=described(InvitationRequest))
    async def invite(request: Request, response: Response) -> MadeInvitation:
        """Invites a hospital to enrol as this site, once; the invitation's text is shown this once."""
        by = no_script(request).user
        made = await consortium.invite((await read_document(request, InvitationRequest, SMALL_BODY)).site, by)
        response.headers.update(NO_STORE)
        return made

    @routes.delete("/v1/invitations/{identifier}")
    async def revoke_invitation(request: Request, identifier: str) -> InvitationStatus:
        """Takes an open invitation back, at once."""
        return await consortium.revoke_invitation(identifier, asker_of(request).subject)

    @routes.get("/v1/agreements")
    async def agreements(request: Request) -> list[Agreement]:
        """What is before the members, and who has accepted it; to the people of a hospital only whether theirs has."""
        return [shown(request, each) for each in await consortium.agreements()]

    @routes.post("/v1/agreements", status_code=201, openapi_extra=described(NewAgreement))
    async def add_agreement(request: Request) -> Agreement:
        """Puts a document before the members: its title, date and SHA-256; the document itself lies elsewhere."""
        by = no_script(request).user
        return await consortium.add_agreement(await read_document(request, NewAgreement, SMALL_BODY), by)

    @routes.post("/v1/agreements/{digest}/acceptances", status_code=201, openapi_extra=described(NewAcceptance))
    async def accept(request: Request, digest: str) -> Agreement:
        """A hospital's own people record that a named person has accepted the document for their hospital. It approves no study."""
        asker, by = asker_of(request), no_script(request).user
        assert asker.site is not None
        person = (await read_document(request, NewAcceptance, SMALL_BODY)).by
        return shown(request, await consortium.accept(digest, asker.site, person, by))

    return routes


def _status(coordinator: Coordinator, name: str) -> SiteStatus:
    site, presence = coordinator.registry.sites[name], coordinator.presence
    return SiteStatus(
        site=name,
        key=site.key.text,
        enrolled=site.enrolled,
        last_contact=presence.last_contact(name) or site.last_contact,
        online=presence.online(name) and not site.revoked,
        revoked=site.revoked,
        status=presence.status(name) or site.status,
    )
