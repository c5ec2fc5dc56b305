"""The way over the OpenID provider and back; a browser goes it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import RedirectResponse, Response

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.session_api import start_session
from aimer2.coordinator.openid import CALLBACK, LOGIN_SECONDS
from aimer2.core.task import Document

STATE_COOKIE = "__Host-aimer2-openid"

# The address of the answer holds a code: it goes nowhere else.
_HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


class OpenIdProvider(Document):
    """How people log in here besides by a password."""

    name: str | None = None
    """None: there is no provider."""


def openid_routes(coordinator: Coordinator) -> APIRouter:
    routes = APIRouter(tags=["people"])

    @routes.get("/v1/openid")
    async def provider() -> OpenIdProvider:
        """The OpenID provider's name, for the page where people log in; none where there is none."""
        return OpenIdProvider(name=coordinator.openid.name)

    @routes.get("/v1/openid/login", status_code=303, response_class=RedirectResponse)
    async def login(target: Annotated[str, Query(alias="next", description="the page of this coordinator to come back to")] = "/") -> Response:
        """Sends the browser to the OpenID provider."""
        address, state = await coordinator.openid.start(target)
        response = RedirectResponse(address, 303, _HEADERS)
        response.set_cookie(STATE_COOKIE, state, max_age=LOGIN_SECONDS, path="/", secure=True, httponly=True, samesite="lax")
        return response

    @routes.get(CALLBACK, status_code=303, response_class=RedirectResponse)
    async def callback(request: Request) -> Response:
        """Where the provider sends the browser back to: opens a session, as `POST /v1/session` does, and goes to the page that was wanted."""
        account, target = await coordinator.openid.finish(dict(request.query_params), request.cookies.get(STATE_COOKIE, ""))
        response = RedirectResponse(target, 303, _HEADERS)
        await coordinator.registry.load()
        await start_session(coordinator, request, response, account)
        response.delete_cookie(STATE_COOKIE, path="/", secure=True, httponly=True, samesite="lax")
        return response

    return routes
