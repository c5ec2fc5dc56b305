"""A study's events, live: server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.access import is_still_let_in, study_for
from aimer2.coordinator.store.studies import read_events
from aimer2.core.errors import BadInput

HEARTBEAT_SECONDS = 15.0
_PAUSE_SECONDS = 0.05
"""After each page: nobody looks more often, and to tell every event of quick rounds by itself costs as much as their replies."""


def event_routes(coordinator: Coordinator, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> APIRouter:
    routes = APIRouter(tags=["researchers"])

    @routes.get("/v1/studies/{digest}/events", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
    async def events(
        request: Request, digest: str, follow: Annotated[bool, Query(description="false: only what has happened so far")] = True
    ) -> Response:
        """Every event of the study from its beginning (or after `Last-Event-ID`), then live; ends when the study has finished, stopped or paused.

        It ends too, within seconds, once the log-in has ended or no longer lets in here.
        """
        study_for(coordinator, request, digest)
        last = request.headers.get("last-event-id", "0")
        if not last.isdecimal():
            raise BadInput("`Last-Event-ID` is the number of an event.")
        let_in = partial(is_still_let_in, coordinator, request, digest)
        stream = events_of(coordinator, digest, int(last), heartbeat_seconds if follow else None, let_in)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    return routes


async def events_of(
    coordinator: Coordinator, digest: str, after: int, heartbeat_seconds: float | None, is_let_in: Callable[[], Awaitable[bool]]
) -> AsyncIterator[bytes]:
    """``heartbeat_seconds``: None ends with what has happened so far; as often it is asked whether the reader may still read."""
    news, asked = coordinator.studies.news(digest), coordinator.clock.monotonic()
    yield b": the events of a study\n\n"
    while True:
        seen, told = news.count, after
        # The state before the events: what ends a study is stored in one transaction with its last event.
        going_on = coordinator.registry.study(digest).state in ("offered", "running")
        while page := await coordinator.database.read(read_events, digest, after):
            if heartbeat_seconds is not None and coordinator.clock.monotonic() - asked >= heartbeat_seconds:
                if not await is_let_in():
                    return
                asked = coordinator.clock.monotonic()
            after = page[-1][0]
            yield "".join(f"id: {sequence}\ndata: {document}\n\n" for sequence, document in page).encode()
        if not going_on or heartbeat_seconds is None or coordinator.queue.closing:
            return
        if after != told:
            await asyncio.sleep(_PAUSE_SECONDS)
            continue
        await news.wait(seen, heartbeat_seconds)
        if news.count == seen:
            if not await is_let_in():
                return
            asked = coordinator.clock.monotonic()
            yield b": still here\n\n"
