"""The live view's one reader: in whose name it asks, and what becomes of the others when that one has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from aimer2 import dashboard
from aimer2.core.errors import AimerError, NotAuthenticated
from aimer2.dashboard.api import Api
from aimer2.dashboard.live import Live
from aimer2.dashboard.visit import Visit
from aimer2.messages.wire import BACKGROUND, problem_of
from aimer2.web.answers import Answers
from aimer2.web.pages import Pages

DIGEST = "d" * 64


class Coordinator:
    """An API with one study that runs, for whoever is logged in."""

    def __init__(self) -> None:
        self.logged_in = {"anna", "bert"}
        self.logged_out = {name: asyncio.Event() for name in self.logged_in}
        self.looked: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()
        """Who has asked for the sites' work, and whether that was in the background."""
        prefix = f"/v1/studies/{DIGEST}"
        routes = [Route(prefix, self.study), Route(f"{prefix}/events", self.events), Route(f"{prefix}/work", self.work)]
        self.api = Api(Starlette(routes=routes, exception_handlers={AimerError: self.refuse}))

    def check(self, request: Request) -> str:
        if request.cookies["name"] not in self.logged_in:
            raise NotAuthenticated()
        return request.cookies["name"]

    async def refuse(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, AimerError)
        return JSONResponse(problem_of(error).model_dump(mode="json"), error.status)

    async def study(self, request: Request) -> Response:
        self.check(request)
        return JSONResponse({"state": "running"})

    async def events(self, request: Request) -> Response:
        self.check(request)

        async def none() -> AsyncIterator[bytes]:
            yield b": here\n\n"
            if "follow" not in request.query_params:
                # As the API's own, it ends for whoever is logged out.
                await self.logged_out[request.cookies["name"]].wait()

        return StreamingResponse(none())

    async def work(self, request: Request) -> Response:
        self.looked.put_nowait((self.check(request), request.scope[BACKGROUND]))
        return JSONResponse([])

    def log_out(self, name: str) -> None:
        self.logged_in.remove(name)
        self.logged_out[name].set()

    async def until_looks(self, name: str) -> None:
        looks = ""
        while looks != name:
            looks, background = await self.looked.get()
            assert background, "it keeps no session from ending"


def test_when_the_one_in_whose_name_it_is_read_logs_out_it_is_read_in_another_s() -> None:
    pages = Pages(Path(dashboard.__file__).parent, product="AIMER2", navigation=())

    async def story() -> None:
        coordinator = Coordinator()
        live = Live(coordinator.api, pages)

        async def look(name: str) -> AsyncIterator[bytes]:
            request = Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [(b"cookie", f"name={name}".encode())]})
            response = await live.stream(Visit(request, coordinator.api, Answers(pages), {}), DIGEST)
            assert isinstance(response, StreamingResponse)
            async for piece in response.body_iterator:
                assert isinstance(piece, bytes)
                yield piece

        anna, bert = look("anna"), look("bert")
        assert b"live-state" in await anext(anna)
        assert b"live-state" in await anext(bert)
        await coordinator.until_looks("anna")
        coordinator.log_out("anna")
        await coordinator.until_looks("bert")
        coordinator.log_out("bert")
        # Nobody is left who may: both are led to the log-in.
        assert await anext(anna) == await anext(bert) == b"event: end\ndata: reload\n\n"

    asyncio.run(asyncio.wait_for(story(), 20))
