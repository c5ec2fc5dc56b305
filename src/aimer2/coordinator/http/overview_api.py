"""What pages ask for: every study and site in one short answer, and what the sites of a study have to do just now."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic_core import to_json
from starlette.responses import Response

from aimer2 import __version__
from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.access import asker_of, may, study_for
from aimer2.coordinator.permissions import Action, Reach, reach_of
from aimer2.coordinator.registry import Offer
from aimer2.coordinator.store.studies import read_rounds
from aimer2.messages.overview import Overview, SiteLine, SiteWork, StudyLine


def overview_routes(coordinator: Coordinator) -> APIRouter:
    routes = APIRouter(tags=["pages"])

    @routes.get("/v1/overview", response_model=Overview)
    async def overview(request: Request) -> Response:
        """The studies and sites that this person may see, each in one line."""
        asker, registry = asker_of(request), coordinator.registry
        rounds = await coordinator.database.read(read_rounds)
        reach = reach_of(asker.role, Action.SEE_SITES)
        sites = [name for name in registry.sites if reach is not None and (reach is not Reach.SITE or name == asker.site)]
        answer = Overview.model_construct(
            name=coordinator.settings.name,
            version=__version__,
            time=coordinator.clock.now(),
            studies=tuple(
                _line(offer, rounds.get(offer.digest, 0), asker.site if reach is Reach.SITE else None)
                for offer in registry.studies.values()
                if may(coordinator, asker, Action.SEE_STUDY, offer)
            ),
            sites=tuple(_site(coordinator, name) for name in sites),
        )
        # Its parts are ours: to check each of ten thousand again would take longer than to make them.
        return Response(to_json(answer), media_type="application/json")

    @routes.get("/v1/studies/{digest}/work")
    async def work(request: Request, digest: str) -> list[SiteWork]:
        """The open tasks of the study: who has fetched his, who is uploading, in which phase."""
        study_for(coordinator, request, digest)
        uploading = coordinator.presence.uploading
        return [
            SiteWork(
                site=task.site,
                stage=task.stage,
                round_number=task.round_number,
                attempt=task.attempt,
                phase=task.phase,
                state="uploading" if task.site in uploading else "at work" if fetched else "waiting",
            )
            for task, fetched in coordinator.queue.open_tasks(digest)
        ]

    return routes


def _line(offer: Offer, round_number: int, only: str | None) -> StudyLine:
    """``only``: a person of one hospital sees that hospital's decision."""
    study = offer.package.study
    private = study.privacy.differential_privacy
    decisions = offer.decisions
    return StudyLine.model_construct(
        digest=offer.digest,
        name=study.name,
        state=offer.state,
        reason=offer.reason,
        submitted_by=offer.submitted_by,
        submitted=offer.submitted,
        expires=study.expires_at,
        round_number=offer.rounds_done(round_number),
        rounds=study.rounds,
        method=", ".join(study.methods),
        decisions={
            site: decisions[site].decision if site in decisions else "waiting" for site in sorted(offer.package.roster) if only in (None, site)
        },
        secure=study.privacy.secure_aggregation,
        epsilon_asked=None if private is None else private.epsilon,
        archived=offer.archived,
    )


def _site(coordinator: Coordinator, name: str) -> SiteLine:
    site, presence = coordinator.registry.sites[name], coordinator.presence
    status = presence.status(name) or site.status
    return SiteLine.model_construct(
        site=name,
        online=presence.online(name) and not site.revoked,
        revoked=site.revoked,
        enrolled=site.enrolled,
        last_contact=presence.last_contact(name) or site.last_contact,
        version=str(status.get("version", "")),
        clock_skew_seconds=presence.clock_skew(name),
    )
