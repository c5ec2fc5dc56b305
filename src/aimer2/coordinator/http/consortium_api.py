"""Who makes up the consortium: its hospitals."""

from __future__ import annotations

from fastapi import APIRouter, Request

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.access import asker_of
from aimer2.coordinator.permissions import Action, Reach, reach_of
from aimer2.messages.wire import SiteStatus


def consortium_routes(coordinator: Coordinator) -> APIRouter:
    routes = APIRouter(tags=["consortium"])

    @routes.get("/v1/sites")
    async def sites(request: Request) -> list[SiteStatus]:
        """Every site that has enrolled, whether it is there, and what it said of itself; to the people of a hospital only their own."""
        asker = asker_of(request)
        only_own = reach_of(asker.role, Action.SEE_SITES) is Reach.SITE
        return [_status(coordinator, site) for site in coordinator.registry.sites if not only_own or site == asker.site]

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
