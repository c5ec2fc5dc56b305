"""Who asks, and whether he may: one gate before every route, which reads the table of permissions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import final

from fastapi import Request

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.bodies import drain
from aimer2.coordinator.permissions import PART_PERMISSIONS, ROUTES, SITE, Action, Door, Reach, reach_of
from aimer2.coordinator.registry import Offer
from aimer2.coordinator.sessions import csrf_token, is_csrf_token
from aimer2.coordinator.store.accounts import Session
from aimer2.core.errors import AimerError, NotAllowed, NotAuthenticated, NotFound
from aimer2.messages.wire import BACKGROUND

COOKIE = "__Host-aimer2"
"""Of a browser's session. The prefix binds it to this host, to TLS and to the path `/` (RFC 6265bis)."""

CSRF_HEADER = "x-csrf-token"

_SAFE = ("GET", "HEAD", "OPTIONS")
_ACTIONS = {Door.BLOBS: Action.USE_BLOBS, Door.PACKAGE: Action.SEE_STUDY}


@final
@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: a person by ``subject`` and role, or a site's agent. ``site``: the agent's own, or the one that the account belongs to.

    ``csrf``: what a page of this session sends with every change; empty for a bearer token.
    """

    subject: str
    role: str
    site: str | None = None
    session: Session | None = None
    csrf: str = ""


def gate(coordinator: Coordinator) -> Callable[[Request], Awaitable[None]]:
    """The dependency of every route: lets in whom the table lets in, and leaves the asker where `asker_of` finds him."""

    async def admit(request: Request) -> None:
        row = ROUTES.get(f"{request.method} {request.scope['route'].path}")
        if row is Door.ANYONE:
            return
        try:
            request.state.asker = asker = await _identify(coordinator, request)
            request.state.action = _action(asker, row)
        except AimerError:
            if row is Door.BLOBS:
                await drain(request)
            raise

    return admit


def asker_of(request: Request) -> Asker:
    """Whom the gate has let in."""
    found: Asker = request.state.asker
    return found


def site_by(coordinator: Coordinator, authorization: str) -> str:
    """The site whose agent shows this header. Raises NotAuthenticated; NotAllowed for a person."""
    token = _bearer(authorization)
    if "." not in token:
        raise NotAllowed("Only a site may do this.")
    return coordinator.enrolment.site(token)


async def is_still_let_in(coordinator: Coordinator, request: Request, digest: str) -> bool:
    """Whether the gate and `study_for` would let a request in that has lasted for a while; that its session is idle it does not change."""
    try:
        request.state.asker = asker = await _identify(coordinator, request, touch=False)
        request.state.action = _action(asker, ROUTES.get(f"{request.method} {request.scope['route'].path}"))
        study_for(coordinator, request, digest)
    except AimerError:
        return False
    return True


def study_for(coordinator: Coordinator, request: Request, digest: str) -> tuple[Offer, Asker]:
    """The study, if this person may do with it what this route does. Raises NotAllowed; NotFound where he may not even see it."""
    asker, offer = asker_of(request), coordinator.registry.study(digest)
    if not may(coordinator, asker, Action.SEE_STUDY, offer):
        # The same as for one that does not exist, so that nobody learns what does.
        raise NotFound("There is no study with this digest.")
    if not may(coordinator, asker, request.state.action, offer):
        raise NotAllowed()
    return offer, asker


def may(coordinator: Coordinator, asker: Asker, action: Action, offer: Offer) -> bool:
    """Whether this person may do this with this study."""
    reach = reach_of(asker.role, action)
    if reach is Reach.SITE:
        return asker.site in offer.package.roster
    if reach is Reach.PART:
        return action in PART_PERMISSIONS.get(part_in(coordinator, asker, offer) or "", ())
    return reach is Reach.ALL


def part_in(coordinator: Coordinator, asker: Asker, offer: Offer) -> str | None:
    if offer.submitted_by == asker.subject:
        return "principal-investigator"
    return coordinator.registry.parts.get(offer.digest, {}).get(asker.subject)


def _action(asker: Asker, row: Action | Door | None) -> Action | None:
    """What the route does, for a person; None for an agent. Raises NotAllowed."""
    if asker.role == SITE:
        if not isinstance(row, Door):
            raise NotAllowed("Only a person may do this.")
        return None
    if row is Door.AGENT:
        raise NotAllowed("Only a site may do this.")
    action = _ACTIONS[row] if isinstance(row, Door) else row
    if action is None or reach_of(asker.role, action) is None:
        raise NotAllowed()
    return action


async def _identify(coordinator: Coordinator, request: Request, *, touch: bool = True) -> Asker:
    authorization = request.headers.get("authorization")
    if authorization is not None:
        token = _bearer(authorization)
        if "." in token:
            # A signed one: only sites have such.
            name = coordinator.enrolment.site(token)
            return Asker(name, SITE, name)
        session, account = await coordinator.sessions.find(token, "login", "service", touch=touch)
        return Asker(account.name, account.role, account.site, session)
    secret = request.cookies.get(COOKIE, "")
    if not secret:
        raise NotAuthenticated("This needs a log-in: `Authorization: Bearer …`, or the cookie of a session.")
    session, account = await coordinator.sessions.find(secret, "browser", touch=touch and not request.scope.get(BACKGROUND, False))
    if request.method not in _SAFE:
        check_origin(request)
        if not is_csrf_token(secret, request.headers.get(CSRF_HEADER, "")):
            raise NotAllowed("The request has not the session's CSRF token.", remedy="Load the page anew and do it again.")
    return Asker(account.name, account.role, account.site, session, csrf_token(secret))


def check_origin(request: Request) -> None:
    """A browser says from which page a change comes: it must be one of ours. Raises NotAllowed."""
    origin = request.headers.get("origin")
    if origin is not None and origin != f"https://{request.headers.get('host', '')}":
        raise NotAllowed("The request comes from a page of another site.", remedy="Use the coordinator's own pages.")


def _bearer(authorization: str) -> str:
    kind, _, token = authorization.partition(" ")
    if kind.lower() != "bearer" or not token:
        raise NotAuthenticated("This needs a token: `Authorization: Bearer …`.")
    return token
