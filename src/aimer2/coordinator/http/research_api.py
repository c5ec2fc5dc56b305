"""What people call about sites, studies and their results."""

from __future__ import annotations

import hashlib

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.access import asker_of, may, study_for
from aimer2.coordinator.http.bodies import described, read_document
from aimer2.coordinator.http.files import DOCUMENTED, send_blob
from aimer2.coordinator.permissions import Action, Reach, reach_of
from aimer2.coordinator.preflight import Rehearsal, rehearse
from aimer2.coordinator.store.studies import last_model, read_result
from aimer2.core.errors import NotFound
from aimer2.core.task import Document
from aimer2.messages.package import Package
from aimer2.messages.wire import StudySummary

_JOSE = "application/jose"


class Stop(Document):
    """How a study is stopped."""

    final: bool = Field(default=True, description="false: it is paused, and `resume` goes on from its last round")
    reason: str = Field(default="Stopped by a person.", max_length=500)


def research_routes(coordinator: Coordinator) -> APIRouter:
    routes = APIRouter(tags=["researchers"])
    limit = coordinator.settings.max_request_bytes

    async def summary_of(request: Request, digest: str) -> StudySummary:
        round_number, result = await coordinator.database.read(read_result, digest)
        named = None if result is None else hashlib.sha256(result.encode()).hexdigest()
        summary, asker = coordinator.registry.summary(digest, round_number, named), asker_of(request)
        if reach_of(asker.role, Action.SEE_STUDY) is not Reach.SITE:
            return summary
        # What other hospitals have decided, and who there, is theirs.
        return summary.model_copy(update={"sites": tuple(decision for decision in summary.sites if decision.site == asker.site)})

    @routes.post("/v1/studies", status_code=201, openapi_extra=described(Package))
    async def submit(request: Request) -> StudySummary:
        """Submits a study; its blobs are uploaded before. The same package again is the same study."""
        asker = asker_of(request)
        offer = await coordinator.submit(await read_document(request, Package, limit), asker.subject)
        return await summary_of(request, offer.digest)

    @routes.get("/v1/studies")
    async def studies(request: Request, archived: bool = False) -> list[StudySummary]:
        """The studies that this person may see, oldest first; `archived=true`: archived ones too."""
        asker = asker_of(request)
        seen = [offer for offer in coordinator.registry.studies.values() if may(coordinator, asker, Action.SEE_STUDY, offer)]
        return [await summary_of(request, offer.digest) for offer in seen if archived or not offer.archived]

    @routes.get("/v1/studies/{digest}")
    async def study(request: Request, digest: str) -> StudySummary:
        """Where the study stands, and what each site has decided."""
        study_for(coordinator, request, digest)
        return await summary_of(request, digest)

    @routes.post("/v1/studies/{digest}/start")
    async def start(request: Request, digest: str) -> StudySummary:
        """Starts the study with the sites that have approved it, though others have not decided yet."""
        _, asker = study_for(coordinator, request, digest)
        await coordinator.studies.start(digest, asker.subject)
        return await summary_of(request, digest)

    @routes.post("/v1/studies/{digest}/stop", openapi_extra=described(Stop))
    async def stop(request: Request, digest: str) -> StudySummary:
        """Stops the study for good, or pauses it."""
        _, asker = study_for(coordinator, request, digest)
        how = await read_document(request, Stop, limit)
        await coordinator.studies.stop(digest, asker.subject, final=how.final, reason=how.reason)
        return await summary_of(request, digest)

    @routes.post("/v1/studies/{digest}/resume")
    async def resume(request: Request, digest: str) -> StudySummary:
        """A paused study goes on from its last finished round."""
        _, asker = study_for(coordinator, request, digest)
        await coordinator.studies.resume(digest, asker.subject)
        return await summary_of(request, digest)

    @routes.post("/v1/studies/{digest}/preflight")
    async def preflight(request: Request, digest: str) -> Rehearsal:
        """Asks every site that has approved whether its data fit; answers when all have, or after 30 seconds of silence."""
        study_for(coordinator, request, digest)
        return await rehearse(coordinator.queue.view(digest))

    @routes.get("/v1/studies/{digest}/result", response_class=Response, responses={200: {"content": {_JOSE: {"schema": {"type": "string"}}}}})
    async def result(request: Request, digest: str) -> Response:
        """The signed record of the finished study (JWS of kind `result`)."""
        study_for(coordinator, request, digest)
        _, text = await coordinator.database.read(read_result, digest)
        if text is None:
            raise NotFound("The study has no result yet.", remedy="Its state says whether it runs; a result comes when it has finished.")
        return Response(text, media_type=_JOSE)

    @routes.get("/v1/studies/{digest}/model", response_class=Response, responses=DOCUMENTED)
    async def model(request: Request, digest: str) -> Response:
        """The newest model of the study, a tensor blob; ranges as for blobs."""
        study_for(coordinator, request, digest)
        sha256 = await coordinator.database.read(last_model, digest)
        if sha256 is None:
            raise NotFound("The study has no model yet.")
        return await send_blob(coordinator, request, coordinator.storage.of(digest), sha256)

    return routes
