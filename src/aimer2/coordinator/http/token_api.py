"""Tokens for scripts: of one's own account, limited to a role of no more than its own, with an end, revocable."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from aimer2.audit.kinds import Kind
from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.access import asker_of
from aimer2.coordinator.http.bodies import SMALL_BODY, described, read_document
from aimer2.coordinator.http.session_api import NO_STORE, no_script, status_of
from aimer2.coordinator.permissions import ROLES, covers
from aimer2.core.errors import BadInput, NotAllowed, NotFound
from aimer2.core.said import say
from aimer2.messages.people import MadeToken, SessionStatus, TokenRequest


def token_routes(coordinator: Coordinator) -> APIRouter:
    routes = APIRouter(tags=["people"])

    @routes.get("/v1/service-tokens")
    async def tokens(request: Request) -> list[SessionStatus]:
        """One's own tokens for scripts that are good."""
        asker = asker_of(request)
        own = asker.session.id if asker.session else ""
        return [status_of(token, own) for token in await coordinator.sessions.of(asker.subject, "service")]

    @routes.post("/v1/service-tokens", status_code=201, openapi_extra=described(TokenRequest))
    async def make_token(request: Request, response: Response) -> MadeToken:
        """Makes a token for a script; it is shown this once. It is sent like any other bearer token."""
        user = no_script(request).user
        wanted = await read_document(request, TokenRequest, SMALL_BODY)
        role = wanted.role or ""
        if role and role not in ROLES:
            raise BadInput(say("There is no role {role}.", role=f"{role!r}"), remedy=say("The roles are: {roles}", roles=", ".join(ROLES)))
        if role and not covers(asker_of(request).role, role):
            raise NotAllowed(
                say("Your role does not include that of a {role}.", role=role), remedy="Name no role, or one that may no more than yours."
            )
        secret, session = await coordinator.sessions.open(user, "service", name=wanted.name, role=role, seconds=wanted.days * 86400.0)
        await coordinator.records.add(Kind.TOKEN_MADE, actor=user, token=session.id, name=wanted.name, role=role, days=wanted.days)
        response.headers.update(NO_STORE)
        return MadeToken(token=secret, status=status_of(session, ""))

    @routes.delete("/v1/service-tokens/{identifier}", status_code=204)
    async def revoke_token(request: Request, identifier: str) -> Response:
        """Revokes one of one's own tokens, at once."""
        user = no_script(request).user
        if identifier not in {token.id for token in await coordinator.sessions.of(user, "service")}:
            raise NotFound("You have no such token.", remedy="`aimer2 token list` shows yours.")
        await coordinator.sessions.end(identifier)
        await coordinator.records.add(Kind.TOKEN_REVOKED, actor=user, token=identifier)
        return Response(status_code=204)

    return routes
