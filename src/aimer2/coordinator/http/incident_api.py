"""What operators and auditors call: the freeze, and the audit log."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.access import asker_of
from aimer2.coordinator.http.bodies import SMALL_BODY, described, read_document
from aimer2.messages.wire import AuditHead, FreezeState, Incident


def incident_routes(coordinator: Coordinator) -> APIRouter:
    routes = APIRouter(tags=["operation"])

    @routes.get("/v1/freeze")
    async def freeze_state(request: Request) -> FreezeState:
        """Whether everything here is stopped, by whom and why."""
        return coordinator.freezing.state

    @routes.post("/v1/freeze", openapi_extra=described(Incident))
    async def freeze(request: Request) -> FreezeState:
        """Stops everything at once: no task is handed out, running studies are paused, sites end their workers, nothing starts until `thaw`."""
        return await coordinator.freezing.freeze(asker_of(request).subject, (await read_document(request, Incident, SMALL_BODY)).reason)

    @routes.post("/v1/thaw", openapi_extra=described(Incident))
    async def thaw(request: Request) -> FreezeState:
        """Takes the freeze back. Paused studies wait until somebody resumes them."""
        return await coordinator.freezing.thaw(asker_of(request).subject, (await read_document(request, Incident, SMALL_BODY)).reason)

    @routes.get("/v1/audit", response_class=StreamingResponse, responses={200: {"content": {"application/jsonl": {}}}})
    async def audit(request: Request, after: int = 0, study: str | None = None, kind: str | None = None) -> StreamingResponse:
        """The audit log, JSON lines as they were signed: whole it verifies offline; or only entries after a number, of a study, of a kind."""
        lines = await coordinator.audit.lines(asker_of(request).subject, after=after, study=study, kind=kind)
        return StreamingResponse(lines, media_type="application/jsonl")

    @routes.post("/v1/audit/heads", openapi_extra=described(AuditHead))
    async def heads(request: Request) -> AuditHead:
        """A site hands in the signed head of its audit log, which is written into the coordinator's; the answer is the head of that one."""
        return await coordinator.audit.exchange(asker_of(request).subject, await read_document(request, AuditHead, SMALL_BODY))

    return routes
