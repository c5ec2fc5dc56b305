"""What people call: sessions, sites, studies and their results."""

from __future__ import annotations

import hashlib

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import PlainTextResponse, Response

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.access import person_of, study_for
from aimer2.coordinator.http.bodies import described, read_document
from aimer2.coordinator.http.files import send_blob
from aimer2.coordinator.preflight import Rehearsal, rehearse
from aimer2.coordinator.store.studies import last_model, read_result
from aimer2.core.errors import NotFound
from aimer2.core.task import Document
from aimer2.messages.package import Package
from aimer2.messages.wire import Login, SiteStatus, StudySummary, Token


class Stop(Document):
    """How a study is stopped."""

    final: bool = Field(default=True, description="false: it is paused, and `resume` goes on from its last round")
    reason: str = Field(default="Stopped by a person.", max_length=500)


def people_routes(coordinator: Coordinator) -> APIRouter:
    routes = APIRouter(tags=["researchers"])

    @routes.post("/v1/sessions", openapi_extra=described(Login))
    async def login(request: Request) -> Token:
        """A bearer token for a person with an account."""
        given = await read_document(request, Login, 1 << 16)
        role = await coordinator.people.login(given.user, given.password)
        if coordinator.registry.users.get(given.user) != role:
            # An account of this very moment: the token must be good at once.
            await coordinator.registry.load()
        return coordinator.enrolment.user_token(given.user, role)

    @routes.get("/v1/sites")
    async def sites(request: Request) -> list[SiteStatus]:
        """Every site that has enrolled, whether it is there, and what it said of itself."""
        person_of(coordinator, request)
        return [_status(coordinator, site) for site in coordinator.registry.sites]

    return routes


def research_routes(coordinator: Coordinator) -> APIRouter:
    routes = APIRouter(tags=["researchers"])
    limit = coordinator.settings.max_request_bytes

    async def summary_of(digest: str) -> StudySummary:
        round_number, result = await coordinator.database.read(read_result, digest)
        named = None if result is None else hashlib.sha256(result.encode()).hexdigest()
        return coordinator.registry.study(digest).summary(round_number, named)

    @routes.post("/v1/studies", status_code=201, openapi_extra=described(Package))
    async def submit(request: Request) -> StudySummary:
        """Submits a study; its blobs are uploaded before. The same package again is the same study."""
        holder = person_of(coordinator, request, "researcher")
        offer = await coordinator.studies.submit(await read_document(request, Package, limit), holder.subject)
        return await summary_of(offer.digest)

    @routes.get("/v1/studies")
    async def studies(request: Request) -> list[StudySummary]:
        """The studies that this person may see, oldest first."""
        holder = person_of(coordinator, request)
        seen = [o for o in coordinator.registry.studies.values() if holder.role != "researcher" or o.submitted_by == holder.subject]
        return [await summary_of(offer.digest) for offer in seen]

    @routes.get("/v1/studies/{digest}")
    async def study(request: Request, digest: str) -> StudySummary:
        """Where the study stands, and what each site has decided."""
        study_for(coordinator, request, digest)
        return await summary_of(digest)

    @routes.post("/v1/studies/{digest}/start")
    async def start(request: Request, digest: str) -> StudySummary:
        """Starts the study with the sites that have approved it, though others have not decided yet."""
        _, holder = study_for(coordinator, request, digest, "researcher", "operator")
        await coordinator.studies.start(digest, holder.subject)
        return await summary_of(digest)

    @routes.post("/v1/studies/{digest}/stop", openapi_extra=described(Stop))
    async def stop(request: Request, digest: str) -> StudySummary:
        """Stops the study for good, or pauses it."""
        _, holder = study_for(coordinator, request, digest, "researcher", "operator")
        how = await read_document(request, Stop, limit)
        await coordinator.studies.stop(digest, holder.subject, final=how.final, reason=how.reason)
        return await summary_of(digest)

    @routes.post("/v1/studies/{digest}/resume")
    async def resume(request: Request, digest: str) -> StudySummary:
        """A paused study goes on from its last finished round."""
        _, holder = study_for(coordinator, request, digest, "researcher", "operator")
        await coordinator.studies.resume(digest, holder.subject)
        return await summary_of(digest)

    @routes.post("/v1/studies/{digest}/preflight")
    async def preflight(request: Request, digest: str) -> Rehearsal:
        """Asks every site that has approved whether its data fit; answers when all have, or after 30 seconds of silence."""
        study_for(coordinator, request, digest, "researcher", "operator")
        return await rehearse(coordinator.queue.view(digest))

    @routes.get("/v1/studies/{digest}/result", response_class=PlainTextResponse)
    async def result(request: Request, digest: str) -> Response:
        """The signed record of the finished study (JWS of kind `result`)."""
        study_for(coordinator, request, digest)
        _, text = await coordinator.database.read(read_result, digest)
        if text is None:
            raise NotFound("The study has no result yet.", remedy="Its state says whether it runs; a result comes when it has finished.")
        return PlainTextResponse(text, media_type="application/jose")

    @routes.get("/v1/studies/{digest}/model")
    async def model(request: Request, digest: str) -> Response:
        """The newest model of the study, a tensor blob; ranges as for blobs."""
        study_for(coordinator, request, digest)
        sha256 = await coordinator.database.read(last_model, digest)
        if sha256 is None:
            raise NotFound("The study has no model yet.")
        return await send_blob(coordinator, request, coordinator.storage.of(digest), sha256)

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
