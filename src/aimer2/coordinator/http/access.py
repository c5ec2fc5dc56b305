"""Who asks, and whether he may."""

from __future__ import annotations

from fastapi import Request

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.enrolment import SITE_ROLE
from aimer2.coordinator.registry import Offer
from aimer2.core.errors import NotAllowed, NotAuthenticated, NotFound
from aimer2.identity.tokens import Holder


def holder_of(coordinator: Coordinator, request: Request) -> Holder:
    """Raises NotAuthenticated without a good bearer token."""
    return holder_by(coordinator, request.headers.get("authorization", ""))


def holder_by(coordinator: Coordinator, authorization: str) -> Holder:
    """By the header itself."""
    kind, _, token = authorization.partition(" ")
    if kind.lower() != "bearer" or not token:
        raise NotAuthenticated("This needs a token: `Authorization: Bearer …`.")
    return coordinator.enrolment.holder(token)


def site_of(coordinator: Coordinator, request: Request) -> str:
    """The site that asks. Raises NotAllowed for a person."""
    return site_by(coordinator, request.headers.get("authorization", ""))


def site_by(coordinator: Coordinator, authorization: str) -> str:
    holder = holder_by(coordinator, authorization)
    if holder.role != SITE_ROLE:
        raise NotAllowed("Only a site may do this.")
    return holder.subject


def person_of(coordinator: Coordinator, request: Request, *roles: str) -> Holder:
    """The person who asks, in one of these roles (none given: in any). Raises NotAllowed."""
    holder = holder_of(coordinator, request)
    if holder.role == SITE_ROLE or (roles and holder.role not in roles):
        raise NotAllowed()
    return holder


def study_for(coordinator: Coordinator, request: Request, digest: str, *roles: str) -> tuple[Offer, Holder]:
    """A study that this person may see: a researcher his own, others every one. Raises NotFound for all else, so that nobody learns what exists."""
    holder = person_of(coordinator, request, *roles)
    offer = coordinator.registry.study(digest)
    if holder.role == "researcher" and offer.submitted_by != holder.subject:
        raise NotFound("There is no study with this digest.")
    return offer, holder
