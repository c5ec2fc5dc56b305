"""The one request that a round is made of, answered before the framework: its routing costs more than the whole exchange."""

from __future__ import annotations

from typing import final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.problems import problem_response
from aimer2.coordinator.http.site_api import exchange_for


@final
class ExchangeFirst:
    """The application, with a shorter way to the exchange; it answers the same with and without."""

    def __init__(self, app: ASGIApp, coordinator: Coordinator) -> None:
        self._app = app
        self._coordinator = coordinator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/v1/exchange" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        authorization = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        try:
            answer = await exchange_for(self._coordinator, authorization.decode("latin-1"), receive)
        except Exception as error:  # noqa: BLE001 - the edge of a request
            response = await problem_response(Request(scope, receive), error)
            await response(scope, receive, send)
            return
        headers = [(b"content-length", b"%d" % len(answer)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})
