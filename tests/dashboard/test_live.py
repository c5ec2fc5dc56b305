"""The live view's one reader: in whose name it asks, and what becomes of the others when that one has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from aimer2 import dashboard
from aimer2.core.errors import AimerError, NotAuthenticated
from aimer2.core.task import FigureDocument
from aimer2.dashboard.api import Api
from aimer2.dashboard.course import Course
from aimer2.dashboard.live import PARTS, Live, _Watched
from aimer2.dashboard.visit import Visit
from aimer2.messages.wire import BACKGROUND, problem_of
from aimer2.study.events import Event, RoundFinished, StudyFinished, StudyStarted
from aimer2.web.answers import Answers
from aimer2.web.pages import Pages

DIGEST = "d" * 64
PAGES = Pages(Path(dashboard.__file__).parent, product="AIMER2", navigation=())


class Coordinator:
    """An API with one study that runs, for whoever is logged in."""

    def __init__(self) -> None:
        self.number = 0
        self.logged_in = {"anna", "bert"}
        self.logged_out = {name: asyncio.Event() for name in self.logged_in}
        self.told: asyncio.Queue[Event] = asyncio.Queue()
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
            if "follow" in request.query_params:
                return
            # As the API's own, it ends with the study and for whoever is logged out.
            out = asyncio.create_task(self.logged_out[request.cookies["name"]].wait())
            while not out.done():
                news = asyncio.create_task(self.told.get())
                await asyncio.wait((out, news), return_when=asyncio.FIRST_COMPLETED)
                if out.done():
                    news.cancel()
                    return
                self.number += 1
                yield f"id: {self.number}\ndata: {news.result().model_dump_json()}\n\n".encode()
                if news.result().kind == "study-finished":
                    return

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


async def look(live: Live, coordinator: Coordinator, name: str) -> AsyncIterator[bytes]:
    request = Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [(b"cookie", f"name={name}".encode())]})
    response = await live.stream(Visit(request, coordinator.api, Answers(PAGES), {}), DIGEST)
    assert isinstance(response, StreamingResponse)
    async for piece in response.body_iterator:
        assert isinstance(piece, bytes)
        yield piece


def parts(piece: bytes) -> list[str]:
    return [line[7:].decode() for line in piece.splitlines() if line.startswith(b"event: ")]


def finished(number: int) -> RoundFinished:
    figures = (FigureDocument(name="auc", value=1 - 1 / number, n=10),)
    return RoundFinished(time=0, stage="train", round_number=number, rounds=9, seconds=0.1, took_part=("north",), figures=figures)


def test_all_are_sent_the_same_bytes_of_what_has_changed_and_of_the_end_all_is_drawn() -> None:
    async def story() -> None:
        coordinator = Coordinator()
        live = Live(coordinator.api, PAGES)
        viewers = [look(live, coordinator, name) for name in ("anna", "bert", "anna", "bert")]
        for viewer in viewers:
            assert parts(await anext(viewer)) == list(PARTS)

        async def told(event: Event) -> bytes:
            coordinator.told.put_nowait(event)
            first, *others = [await anext(viewer) for viewer in viewers]
            assert all(other is first for other in others), "each was drawn or encoded for itself"
            return first

        assert parts(await told(StudyStarted(time=0, sites=("north",)))) == ["live-sites", "live-recent"]
        assert "live-curves" in parts(await told(finished(1)))
        # Curves are drawn once a second, and then as they are by now; what happens is told at once.
        assert "live-curves" not in parts(await told(finished(2)))
        assert "live-curves" not in parts(await told(finished(3)))
        assert [parts(await anext(viewer)) for viewer in viewers] == [["live-curves"]] * 4
        await told(finished(4))
        coordinator.told.put_nowait(StudyFinished(time=1, result={"model": {"sha256": "0" * 64}}))
        for viewer in viewers:
            rest = [piece async for piece in viewer]
            assert rest[-1] == b"event: end\ndata: reload\n\n"
            assert b"Finished" in rest[0]
            assert "live-curves" in [part for piece in rest for part in parts(piece)]

    asyncio.run(asyncio.wait_for(story(), 20))


def test_when_the_one_in_whose_name_it_is_read_logs_out_it_is_read_in_another_s() -> None:
    async def story() -> None:
        coordinator = Coordinator()
        live = Live(coordinator.api, PAGES)

        anna, bert = look(live, coordinator, "anna"), look(live, coordinator, "bert")
        assert b"live-state" in await anext(anna)
        assert b"live-state" in await anext(bert)
        await coordinator.until_looks("anna")
        coordinator.log_out("anna")
        await coordinator.until_looks("bert")
        coordinator.log_out("bert")
        # Nobody is left who may: both are led to the log-in.
        assert await anext(anna) == await anext(bert) == b"event: end\ndata: reload\n\n"

    asyncio.run(asyncio.wait_for(story(), 20))


class AwaitedEvent(asyncio.Event):
    """Says when somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited = asyncio.Event()

    async def wait(self) -> Literal[True]:
        self.awaited.set()
        return await super().wait()


def test_a_study_that_ends_at_the_moment_of_a_change_ends_the_painter_too() -> None:
    """Else the page would wait for ever: whoever looks is told of the end when the painter has gone."""

    async def ends(ticks: int) -> None:
        changed = AwaitedEvent()
        watched = _Watched(Course(DIGEST), changed=changed)
        painter = asyncio.create_task(Live(Coordinator().api, PAGES)._paint(watched))
        await changed.awaited.wait()
        changed.set()
        for _ in range(ticks):
            await asyncio.sleep(0)
        painter.cancel()
        done, _ = await asyncio.wait([painter], timeout=1)
        assert painter in done, ticks

    for ticks in range(5):
        asyncio.run(ends(ticks))
