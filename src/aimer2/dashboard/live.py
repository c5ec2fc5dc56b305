"""The live view: one reader of events per study, whoever many look; what has changed on the page is drawn and encoded once per language, and the same
bytes are sent to all. Nothing waits in line for a slow viewer: he is sent what differs once he has room for it.

A viewer is let in by the API in his own name, and asked for again while he looks; what he then sees is the same for all. The reader asks in
the name of one who looks, and when that one may no longer, of another. None of this keeps a session from ending that nobody uses.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
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
from aimer2.web.audience import Audience
from aimer2.web.pages import Pages
from aimer2.web.translation import Language

PARTS = ("live-state", "live-curves", "live-sites", "live-recent")
"""Ids of the page's parts that change; each is a macro of `live_parts.html` with `_` for `-`."""

_KEPT = 64
_LOOK_SECONDS = 0.5
_LEAST_SECONDS = 0.02
"""Between two pictures; the first after a silence is drawn at once."""
_SECONDS_PER_VIEWER = 0.0005
"""With many viewers more time is left between two pictures, so that they never take more than a part of a core."""
_CURVES_SECONDS = 1.0
"""Curves take ten times as long to draw and to send as all else, and no eye follows more."""
_AGAIN_SECONDS = 30.0


@final
class _Screen:
    """The parts of a study's page in one language, as all who look see them; a picture has a number, which tells what a viewer has seen."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self.number = 0
        self._parts: dict[str, tuple[int, Any, str, bytes]] = {}
        """Of each part: the picture since which it looks so, what it was drawn from, how it looks, and the event that says so."""
        self._newest = b""

    def put(self, drawn: Mapping[str, tuple[Any, str]]) -> None:
        """The next picture, if anything looks different. ``drawn``: what each part was drawn from, and how it looks."""
        pieces = []
        for part, (key, html) in drawn.items():
            known = self._parts.get(part)
            if known is not None and known[2] == html:
                self._parts[part] = known[0], key, html, known[3]
                continue
            event = (f"event: {part}\n" + "".join(f"data: {line}\n" for line in html.splitlines()) + "\n").encode()
            self._parts[part] = self.number + 1, key, html, event
            pieces.append(event)
        if pieces:
            self.number += 1
            self._newest = b"".join(pieces)

    def drawn_from(self, part: str) -> Any:
        return self._parts[part][1] if part in self._parts else None

    def since(self, number: int) -> bytes:
        """What has changed since that picture."""
        if number == self.number - 1:
            return self._newest
        return b"".join(event for changed, _, _, event in self._parts.values() if changed > number)


@final
@dataclass(slots=True)
class _Watched:
    """A study that is looked at."""

    course: Course
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    audience: Audience = field(default_factory=Audience)
    viewers: int = 0
    names: list[Request] = field(default_factory=list)
    """Of those who look and have not been refused."""
    following: asyncio.Task[None] | None = None
    ended: bool = False
    screens: dict[str, _Screen] = field(default_factory=dict)
    """By the tag of its language."""
    curves: tuple[int, float] = 0, float("-inf")
    """Of how many rounds they were drawn last, and when."""


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
            for screen in watched.screens.values():
                # What was drawn for those who looked some time ago is older than the page.
                self._draw(watched.course, screen, PARTS)
            watched.following = asyncio.create_task(self._follow(watched))
        loop = asyncio.get_running_loop()
        asked, seen = loop.time(), 0
        screen = self._screen(watched, visit.language)
        try:
            while True:
                ended = watched.ended
                if message := screen.since(seen):
                    seen = screen.number
                    yield message
                if ended or (waits and watched.course.started):
                    yield b"event: end\ndata: reload\n\n"
                    return
                if loop.time() - asked > _AGAIN_SECONDS:
                    asked = loop.time()
                    await self._api.get(name, route("/v1/studies/{}/work", watched.course.digest))
                    yield b": still here\n\n"
                if screen.number == seen and not watched.ended:
                    await watched.audience.wait()
        except AimerError:
            # Logged out, or no longer one of this study: the page asks again and is led to the log-in.
            yield b"event: end\ndata: reload\n\n"
        finally:
            watched.viewers -= 1
            if name in watched.names:
                watched.names.remove(name)
            if not watched.viewers and watched.following is not None:
                watched.following.cancel()

    def _screen(self, watched: _Watched, language: Language) -> _Screen:
        screen = watched.screens.get(language.tag)
        if screen is None:
            screen = watched.screens[language.tag] = _Screen(language)
            self._draw(watched.course, screen, PARTS)
        return screen

    def _draw(self, course: Course, screen: _Screen, parts: Sequence[str]) -> None:
        stale = [part for part in parts if screen.drawn_from(part) != _key(part, course)]
        screen.put({part: (_key(part, course), self.drawn(course, part, screen.language)) for part in stale})

    async def _paint(self, watched: _Watched) -> None:
        """A picture for all, as soon as something is new and the last one is some time ago."""
        loop, course = asyncio.get_running_loop(), watched.course
        while True:
            watched.changed.clear()
            rounds, drawn = watched.curves
            parts: Sequence[str] = PARTS
            if rounds != len(course.rounds) and loop.time() - drawn < _CURVES_SECONDS:
                parts = tuple(part for part in PARTS if part != "live-curves")
            elif rounds != len(course.rounds):
                watched.curves = len(course.rounds), loop.time()
            for screen in watched.screens.values():
                self._draw(course, screen, parts)
            await watched.audience.tell()
            await asyncio.sleep(max(_LEAST_SECONDS, _SECONDS_PER_VIEWER * watched.viewers))
            # not wait_for, which loses a cancellation that comes at the moment of a change
            with suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_SECONDS / 2 if parts == PARTS else _CURVES_SECONDS):
                    await watched.changed.wait()

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
            # Whoever still looks sees the last of it, and asks in his own name again; also where the last of it cannot be drawn.
            watched.ended = True
            try:
                for screen in watched.screens.values():
                    self._draw(watched.course, screen, PARTS)
            finally:
                watched.audience.tell_at_once()

    async def _follow_as(self, name: Request, watched: _Watched) -> None:
        """Until the events end. Raises what the API says to this person, of the events or of the sites' work."""
        tasks = [asyncio.create_task(part(name, watched)) for part in (self._read, self._look)] + [asyncio.create_task(self._paint(watched))]
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
                watched.changed.set()
        # They end for whoever may no longer read them, too.
        await self._api.get(name, route("/v1/studies/{}/work", watched.course.digest))

    async def _look(self, name: Request, watched: _Watched) -> None:
        """What the sites do just now is no event, so it is asked for; once for all who look."""
        path = route("/v1/studies/{}/work", watched.course.digest)
        while True:
            before = watched.course.version
            watched.course.set_work(await self._api.get(name, path))
            if watched.course.version != before:
                watched.changed.set()
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
