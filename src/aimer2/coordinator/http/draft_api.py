"""What researchers call about studies before they are submitted and after they have ended. A draft of somebody else is not there."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.access import asker_of, study_for
from aimer2.coordinator.http.bodies import described, read_document
from aimer2.messages.drafts import Archive, Draft, DraftChange, DraftEntry, DraftFaults, DraftText
from aimer2.messages.wire import FaultDocument


def draft_routes(coordinator: Coordinator) -> APIRouter:
    routes = APIRouter(tags=["researchers"])
    limit = coordinator.settings.max_request_bytes

    @routes.get("/v1/drafts")
    async def drafts(request: Request) -> list[DraftEntry]:
        """One's own without their texts, the newest change first."""
        return await coordinator.drafts.all(asker_of(request).subject)

    @routes.post("/v1/drafts", status_code=201, openapi_extra=described(DraftText))
    async def save(request: Request) -> Draft:
        """Saves a study that is still being written, with all its faults."""
        return await coordinator.drafts.save(await read_document(request, DraftText, limit), asker_of(request).subject)

    @routes.get("/v1/drafts/{draft}")
    async def read(request: Request, draft: str) -> Draft:
        """One of one's own."""
        return await coordinator.drafts.read(draft, asker_of(request).subject)

    @routes.put("/v1/drafts/{draft}", openapi_extra=described(DraftChange))
    async def change(request: Request, draft: str) -> Draft:
        """Changes it; refused (409) where it was changed since the revision that is named."""
        return await coordinator.drafts.change(draft, await read_document(request, DraftChange, limit), asker_of(request).subject)

    @routes.delete("/v1/drafts/{draft}", status_code=204)
    async def discard(
        request: Request, draft: str, revision: Annotated[int | None, Query(ge=1, description="of the draft that was looked at")] = None
    ) -> Response:
        """It is gone; refused (409) where it was changed since the revision that is named."""
        await coordinator.drafts.discard(draft, asker_of(request).subject, revision)
        return Response(status_code=204)

    @routes.get("/v1/drafts/{draft}/faults")
    async def faults(request: Request, draft: str) -> DraftFaults:
        """Everything that speaks against submitting it as it stands, but for what only the building of its model shows."""
        found = await coordinator.drafts.faults(draft, asker_of(request).subject)
        return DraftFaults(faults=tuple(FaultDocument(place=one.place, problem=one.problem, remedy=one.remedy) for one in found))

    @routes.post("/v1/studies/{digest}/archive", status_code=204, openapi_extra=described(Archive))
    async def archive(request: Request, digest: str) -> Response:
        """Takes a study that has ended out of the lists, or puts it back; its records stay."""
        _, asker = study_for(coordinator, request, digest)
        how = await read_document(request, Archive, limit)
        await coordinator.studies.archive(digest, asker.subject, archived=how.archived)
        return Response(status_code=204)

    return routes
