"""What sites tell of themselves, and who may read it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.access import asker_of, may
from aimer2.coordinator.http.bodies import described, read_document
from aimer2.coordinator.permissions import Action, Reach, reach_of
from aimer2.core.errors import NotFound
from aimer2.messages.told import DataPublished, Spending, Told


def told_routes(coordinator: Coordinator) -> APIRouter:
    routes = APIRouter(tags=["sites"])
    limit = coordinator.settings.max_request_bytes
    said = coordinator.told

    @routes.post("/v1/spending", status_code=204, openapi_extra=described(Told))
    async def tell_spending(request: Request) -> Response:
        """Records what the site's ledger has charged to one study, verbatim as it has signed it (JWS of kind `spending`)."""
        await said.take_spending(asker_of(request).subject, (await read_document(request, Told, limit)).statement)
        return Response(status_code=204)

    @routes.post("/v1/descriptions", status_code=204, openapi_extra=described(Told))
    async def tell_description(request: Request) -> Response:
        """Records the published description of a data set, verbatim as the site has signed it (JWS of kind `data-description`)."""
        await said.take_description(asker_of(request).subject, (await read_document(request, Told, limit)).statement)
        return Response(status_code=204)

    @routes.get("/v1/spending")
    async def spending(request: Request, study: str | None = None) -> list[Spending]:
        """What sites have charged to the studies that this person may see, or to the one of this digest; to a hospital's people their own."""
        asker, studies = asker_of(request), coordinator.registry.studies
        own = reach_of(asker.role, Action.SEE_STUDY) is Reach.SITE
        shown = [one for one in await said.spending() if study in (None, one.study) and (not own or one.site == asker.site)]
        return [one for one in shown if one.study in studies and may(coordinator, asker, Action.SEE_STUDY, studies[one.study])]

    @routes.get("/v1/sites/{site}/descriptions")
    async def descriptions(request: Request, site: str) -> list[DataPublished]:
        """What the site's people have published of its data sets; to the people of a hospital only their own."""
        asker = asker_of(request)
        hidden = reach_of(asker.role, Action.SEE_SITES) is Reach.SITE and site != asker.site
        if hidden or site not in coordinator.registry.sites:
            raise NotFound("There is no such site.")
        return await said.descriptions(site)

    return routes
