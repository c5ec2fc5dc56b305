"""The live view: one reader of events per study, whoever many look; what has changed on the page is drawn once per language and sent to all.

A viewer is let in by the API in his own name, and asked for again while he looks; what he then sees is the same for all. The reader asks in
the name of one who looks, and when that one may no longer, of another. None of this keeps a session from ending that nobody uses.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from aimer2.core.errors import AimerError
from aimer2.dashboard.api import Api, route
from aimer2.dashboard.course import Course
from aimer2.dashboard.visit import Visit
from aimer2.messages.wire import BACKGROUND
from aimer2.web.pages import Pages
from aimer2.web.translation import Language

PARTS = ("live-state", "live-curves", "live-sites", "live-recent")
"""Ids of the page's parts that change; each is a macro of `live_parts.html` with `_` for `-`."""

_KEPT = 64
_LOOK_SECONDS = 0.5
_LEAST_SECONDS = 0.1
"""Between two pictures of one viewer; with many viewers more, so that they never take more than a part of a core."""
_SECONDS_PER_VIEWER = 0.005
_AGAIN_SECONDS = 30.0


@final
@dataclass(slots=True)
class _Watched:
    """A study that is looked at."""

    course: Course
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    viewers: int = 0
    names: list[Request] = field(default_factory=list)
    """Of those who look and have not been refused."""
    following: asyncio.Task[None] | None = None
    ended: bool = False
    drawn: dict[tuple[str, str], tuple[Any, str]] = field(default_factory=dict)

    def tell(self) -> None:
        """Wakes whoever waits; who comes later waits for the next time."""
        self.changed.set()
        self.changed = asyncio.Event()


@final
class Live:
    def __init__(self, api: Api, pages: Pages) -> None:
        self._api = api
        self._pages = pages
        self._watched: OrderedDict[str, _Watched] = OrderedDict()

    async def course(self, visit: Visit, digest: str) -> Course:
        """The study's course up to now. Raises what the API says to this person about its events."""
        return (await self._up_to_now(visit.request, digest)).course

    async def stream(self, visit: Visit, digest: str) -> Response:
        """The parts of the page that change, as server-sent events named after their ids, until the study ends. The page says in which state of
        the study it was made: in another it would look different as a whole."""
        watched = await self._up_to_now(visit.request, digest)
        study = await visit.get(route("/v1/studies/{}", digest))
        made = visit.request.query_params.get("made", study["state"])
        if study["state"] in ("offered", "running"):
            events = self._view(visit, watched, waits=made == "offered")
        else:
            events = self._ended("reload" if made != study["state"] else "")
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    def drawn(self, course: Course, part: str, language: Language) -> str:
        """A part as it is now."""
        return self._pages.fragment("live_parts.html", part.replace("-", "_"), language, course, language)

    async def _up_to_now(self, request: Request, digest: str) -> _Watched:
        watched = self._watched.get(digest)
        known = watched or _Watched(Course(digest))
        async with known.lock:
            path = route("/v1/studies/{}/events", digest) + "?follow=false"
            async with aclosing(self._api.stream(request, path, {"last-event-id": str(known.course.last)})) as pieces:
                async for sequence, document in _events(pieces):
                    known.course.add(sequence, document)
        # Only now is it certain that there is such a study and that this person may see it.
        self._watched.setdefault(digest, known)
        self._watched.move_to_end(digest)
        for old in [key for key, one in self._watched.items() if not one.viewers][: max(0, len(self._watched) - _KEPT)]:
            del self._watched[old]
        return self._watched[digest]

    async def _view(self, visit: Visit, watched: _Watched, *, waits: bool) -> AsyncIterator[bytes]:
        """``waits``: the page was made before the study began; what can be done with it is another thing afterwards, so it is loaded again."""
        name = _in_background(visit.request)
        watched.viewers += 1
        watched.names.append(name)
        if watched.following is None or watched.following.done():
            watched.ended = False
            watched.following = asyncio.create_task(self._follow(watched))
        loop = asyncio.get_running_loop()
        sent: dict[str, str] = {}
        asked = loop.time()
        try:
            while True:
                changed = watched.changed
                message = self._news(watched, visit.language, sent)
                if message:
                    yield message
                if watched.ended or (waits and watched.course.started):
                    yield b"event: end\ndata: reload\n\n"
                    return
                pause = max(_LEAST_SECONDS, _SECONDS_PER_VIEWER * watched.viewers) if message else 0.0
                await asyncio.sleep(pause)
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), _AGAIN_SECONDS / 2)
                if loop.time() - asked > _AGAIN_SECONDS:
                    asked = loop.time()
                    await self._api.get(name, route("/v1/studies/{}/work", watched.course.digest))
                    yield b": still here\n\n"
        except AimerError:
            # Logged out, or no longer one of this study: the page asks again and is led to the log-in.
            yield b"event: end\ndata: reload\n\n"
        finally:
            watched.viewers -= 1
            if name in watched.names:
                watched.names.remove(name)
            if not watched.viewers and watched.following is not None:
                watched.following.cancel()

    def _news(self, watched: _Watched, language: Language, sent: dict[str, str]) -> bytes:
        pieces = []
        for part in PARTS:
            key = _key(part, watched.course)
            known = watched.drawn.get((part, language.tag))
            if known is None or known[0] != key:
                known = watched.drawn[part, language.tag] = (key, self.drawn(watched.course, part, language))
            if sent.get(part) != known[1]:
                sent[part] = known[1]
                pieces.append(f"event: {part}\n" + "".join(f"data: {line}\n" for line in known[1].splitlines()) + "\n")
        return "".join(pieces).encode()

    async def _follow(self, watched: _Watched) -> None:
        try:
            while watched.names:
                name = watched.names[0]
                try:
                    await self._follow_as(name, watched)
                    return
                except AimerError:
                    # Logged out, or no longer one of this study; his own stream ends when it asks the next time.
                    if name in watched.names:
                        watched.names.remove(name)
        finally:
            # Whoever still looks asks in his own name again.
            watched.ended = True
            watched.tell()

    async def _follow_as(self, name: Request, watched: _Watched) -> None:
        """Until the events end. Raises what the API says to this person, of the events or of the sites' work."""
        tasks = [asyncio.create_task(self._read(name, watched)), asyncio.create_task(self._look(name, watched))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, name: Request, watched: _Watched) -> None:
        path = route("/v1/studies/{}/events", watched.course.digest)
        async with aclosing(self._api.stream(name, path, {"last-event-id": str(watched.course.last)})) as pieces:
            async for sequence, document in _events(pieces):
                watched.course.add(sequence, document)
                watched.tell()
        # They end for whoever may no longer read them, too.
        await self._api.get(name, route("/v1/studies/{}/work", watched.course.digest))

    async def _look(self, name: Request, watched: _Watched) -> None:
        """What the sites do just now is no event, so it is asked for; once for all who look."""
        path = route("/v1/studies/{}/work", watched.course.digest)
        while True:
            before = watched.course.version
            watched.course.set_work(await self._api.get(name, path))
            if watched.course.version != before:
                watched.tell()
            await asyncio.sleep(_LOOK_SECONDS)

    async def _ended(self, what: str) -> AsyncIterator[bytes]:
        yield f"event: end\ndata: {what}\n\n".encode()


def _in_background(request: Request) -> Request:
    """For what nobody has asked for with his own hand."""
    return Request({**request.scope, BACKGROUND: True})


def _key(part: str, course: Course) -> Any:
    """What a part is drawn from: it is drawn again when this has changed."""
    if part == "live-curves":
        return len(course.rounds)
    if part == "live-recent":
        return course.last
    return course.version


async def _events(pieces: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, str]]:
    """Number and document of each event of a stream."""
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n\n")
        for block in whole:
            fields: Mapping[bytes, bytes] = dict(line.split(b": ", 1) for line in block.splitlines() if b": " in line and not line.startswith(b":"))
            if b"id" in fields:
                yield int(fields[b"id"]), fields[b"data"].decode()
