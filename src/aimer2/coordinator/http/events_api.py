"""A study's events, live: server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.http.access import is_still_let_in, study_for
from aimer2.coordinator.http.feed import Feeds
from aimer2.coordinator.store.studies import last_event
from aimer2.core.errors import BadInput

HEARTBEAT_SECONDS = 15.0
_LONGEST_NUMBER = 18
"""Digits of a number that every database holds."""


def event_routes(coordinator: Coordinator, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> APIRouter:
    routes = APIRouter(tags=["researchers"])
    feeds = Feeds(coordinator, heartbeat_seconds)

    @routes.get("/v1/studies/{digest}/events", response_class=Response, responses={200: {"content": {"text/event-stream": {}}}})
    async def events(
        request: Request, digest: str, follow: Annotated[bool, Query(description="false: only what has happened so far")] = True
    ) -> Response:
        """Every event of the study from its beginning (or after `Last-Event-ID`), then live; ends when the study has finished, stopped or paused.

        It ends too, within seconds, once the log-in has ended or no longer lets in here.
        """
        study_for(coordinator, request, digest)
        after = await _after(coordinator, digest, request.headers.get("last-event-id", "0"))
        let_in = partial(is_still_let_in, coordinator, request, digest)
        stream = feeds.follow(digest, after, let_in) if follow else feeds.so_far(digest, after)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    return routes


async def _after(coordinator: Coordinator, digest: str, text: str) -> int:
    """The number that a reader has heard last; 0 where the study has not come so far: the reader knows it from before a backup was put back."""
    if not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST_NUMBER):
        raise BadInput("`Last-Event-ID` is the number of an event.")
    return number if (number := int(text)) <= await coordinator.database.read(last_event, digest) else 0
