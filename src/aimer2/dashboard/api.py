"""The coordinator's HTTP API, asked within the process and in the name of whoever looks at a page: pages can do nothing that the API would refuse."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, final
from urllib.parse import quote, unquote

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Scope

from aimer2.core.errors import AimerError, Unreachable
from aimer2.core.task import restored
from aimer2.messages.wire import BACKGROUND, Problem, error_of

_PASSED_ON = ("cookie", "host", "origin", "user-agent")


@final
@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body, object_hook=restored)

    def all(self, name: str) -> list[str]:
        """Every value of a header, whose name is in lower case."""
        return [value for found, value in self.headers if found == name]


@final
class Api:
    """``app``: the API as an ASGI application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def ask(self, request: Request, method: str, path: str, body: Any = None, *, csrf: str = "") -> Reply:
        """``path``: percent-encoded, as `route` makes it. Raises the error that the API's problem document tells of."""
        sent = b"" if body is None else json.dumps(body).encode()
        return await self._ask(request, method, path, sent, {"content-type": "application/json"} if body is not None else {}, csrf)

    async def put(self, request: Request, path: str, content: bytes, *, csrf: str) -> None:
        """Uploads a blob in one piece."""
        size = str(len(content))
        await self._ask(request, "PUT", path, content, {"upload-offset": "0", "upload-length": size, "content-length": size}, csrf)

    async def _ask(self, request: Request, method: str, path: str, sent: bytes, headers: dict[str, str], csrf: str) -> Reply:
        if csrf:
            headers["x-csrf-token"] = csrf
        pieces = list[bytes]()
        start: Message = {"status": 500, "headers": []}
        async with aclosing(self._messages(_scope(request, method, path, headers), sent)) as messages:
            async for message in messages:
                if message["type"] == "http.response.start":
                    start = message
                else:
                    pieces.append(message.get("body", b""))
        reply = Reply(
            start["status"], tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in start["headers"]), b"".join(pieces)
        )
        if reply.status >= 400:
            raise _error(reply)
        return reply

    async def get(self, request: Request, path: str) -> Any:
        return (await self.ask(request, "GET", path)).document

    async def stream(self, request: Request, path: str, headers: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
        """The body of a GET, piece by piece, as it comes. Raises as `ask`."""
        start: Message = {"status": 500, "headers": []}
        refused = list[bytes]()
        async with aclosing(self._messages(_scope(request, "GET", path, headers), b"")) as messages:
            async for message in messages:
                if message["type"] == "http.response.start":
                    start = message
                elif start["status"] >= 400:
                    refused.append(message.get("body", b""))
                elif message.get("body"):
                    yield message["body"]
        if start["status"] >= 400:
            raise _error(Reply(start["status"], (), b"".join(refused)))

    async def _messages(self, scope: Scope, body: bytes) -> AsyncGenerator[Message, None]:
        """What the application answers; it is told of a disconnection when nobody reads on."""
        came: asyncio.Queue[Message | None] = asyncio.Queue(8)
        asked = False
        gone = asyncio.Event()

        async def receive() -> Message:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            try:
                await self._app(scope, receive, came.put)
            finally:
                await came.put(None)

        running = asyncio.create_task(run())
        try:
            while (message := await came.get()) is not None:
                # A file that the server could send by itself has no body here: the API's pages never ask for one.
                yield message
            await running
        finally:
            gone.set()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def route(template: str, *values: str) -> str:
    """A path of the API: nothing in a value is taken for a part of the path."""
    return template.format(*(quote(value, safe="") for value in values))


def _scope(request: Request, method: str, path: str, headers: Mapping[str, str]) -> Scope:
    plain, _, query = path.partition("?")
    passed = {name: request.headers[name] for name in _PASSED_ON if name in request.headers} | dict(headers)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        # A value that holds "/" stays one part of the path, which then names nothing.
        "path": unquote(plain.replace("%2F", "%252F")),
        "raw_path": plain.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in passed.items()],
        "client": request.scope.get("client"),
        "server": request.scope.get("server"),
        BACKGROUND: request.scope.get(BACKGROUND, False),
    }


def _error(reply: Reply) -> AimerError:
    try:
        return error_of(Problem.model_validate_json(reply.body))
    except ValueError:
        return Unreachable("The coordinator did not answer as it should.")
