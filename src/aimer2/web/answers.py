"""HTTP answers of a console: pages in the reader's language, shipped files, forms within limits, and on each answer the protecting headers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, final
from urllib.parse import parse_qsl

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aimer2.core.errors import AimerError, BadInput, NotFound, TooLarge
from aimer2.core.said import say
from aimer2.web.pages import Pages
from aimer2.web.security import HEADERS, check_origin, local_path
from aimer2.web.translation import Language

LANGUAGE_COOKIE = "__Host-language"
LARGEST_FORM = 1 << 16
FORM_SECONDS = 10.0
"""A form that takes longer to arrive is not waited for."""

_YEAR = 365 * 86400
_FOR_GOOD = {"Cache-Control": f"public, max-age={_YEAR}, immutable"}

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


@final
class Answers:
    """``secure``: the cookie of the language is sent over TLS only; False where a console speaks plain HTTP on loopback."""

    def __init__(self, pages: Pages, *, secure: bool = True) -> None:
        self.pages = pages
        self._secure = secure
        self._cookie = LANGUAGE_COOKIE if secure else LANGUAGE_COOKIE.removeprefix("__Host-")

    def language(self, request: Request) -> Language:
        return self.pages.language(request.cookies.get(self._cookie, ""), request.headers.get("accept-language", ""))

    def page(self, request: Request, template: str, status: int = 200, *, person: str | None = None, current: str = "", **values: Any) -> Response:
        """``person``: who is logged in, and so sees the navigation. ``current``: the address of the navigation's line that this page belongs to."""
        address = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        given = {"person": person, "current": current, "address": address, "notice": "", "csrf": "", "actions": ()} | values
        text = self.pages.render(template, self.language(request), **given)
        return HTMLResponse(text, status, {"Cache-Control": "no-store", "Vary": "Cookie, Accept-Language"})

    def problem(self, request: Request, error: AimerError, *, person: str | None = None, **values: Any) -> Response:
        """What went wrong, as a page."""
        faults = getattr(error, "faults", ())
        told = {"sentence": error.sentence, "title": type(error).title(), "remedy": error.advice, "code": error.code, "faults": faults}
        return self.page(request, "problem.html", error.status, person=person, **(values | told))

    def guard(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint, whose errors become pages, and which no page of another origin can make do anything."""

        async def guarded(request: Request) -> Response:
            try:
                if request.method not in ("GET", "HEAD"):
                    check_origin(request.headers)
                return await endpoint(request)
            except AimerError as error:
                return self.problem(request, error)

        return guarded

    def routes(self) -> list[Route]:
        """The shipped files, and the choice of a language."""
        return [
            Route("/static/{name}", self._file, methods=["GET"]),
            Route("/language", self.guard(self._choose), methods=["POST"]),
        ]

    def exception_handlers(self) -> Mapping[Any, Any]:
        """For the application: what has no page says so on a page."""
        return {HTTPException: self._of_http}

    async def _file(self, request: Request) -> Response:
        found = self.pages.assets.find(request.path_params["name"])
        if found is None:
            return Response(status_code=404)
        return Response(found.content, 200, _FOR_GOOD, found.media_type)

    async def _choose(self, request: Request) -> Response:
        form = await read_form(request)
        answer = RedirectResponse(local_path(form.get("back", "/")), 303)
        chosen = form.get("language", "")
        if chosen in {language.tag for language in self.pages.languages}:
            answer.set_cookie(self._cookie, chosen, max_age=_YEAR, secure=self._secure, httponly=True, samesite="lax")
        return answer

    async def _of_http(self, request: Request, error: HTTPException) -> Response:
        missing = error.status_code == 404
        found = NotFound("There is no such page.") if missing else BadInput("This page cannot be asked for like that.")
        answer = self.problem(request, found)
        answer.status_code = error.status_code
        return answer


async def read_form(request: Request, seconds: float = FORM_SECONDS, *, most: int = LARGEST_FORM) -> dict[str, str]:
    """The fields of a form (`application/x-www-form-urlencoded`). Raises TooLarge, BadInput where it does not arrive in time or is no form.

    A request has one form, however often it is read; ``most``: bytes.
    """
    known: dict[str, str] | None = getattr(request.state, "form", None)
    if known is not None:
        return known
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise BadInput("This is not a form of these pages.")
    try:
        async with asyncio.timeout(seconds):
            body = await _read(request, most)
        # Of many megabytes this takes seconds.
        form = await asyncio.to_thread(_fields, body) if len(body) > LARGEST_FORM else _fields(body)
        request.state.form = form
        return form
    except TimeoutError:
        raise BadInput("The form did not arrive in time.") from None
    except ValueError:
        raise BadInput("This is not a form of these pages.") from None
    except ClientDisconnect:
        raise BadInput("The form was broken off.") from None


def _fields(body: bytes) -> dict[str, str]:
    return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=200))


async def _read(request: Request, most: int) -> bytes:
    pieces, size = list[bytes](), 0
    async for piece in request.stream():
        size += len(piece)
        if size > most:
            raise TooLarge(say("A form has at most {most} bytes.", most=most))
        pieces.append(piece)
    return b"".join(pieces)


@final
class Protected:
    """An application, on each of whose answers the protecting headers stand."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, sending)
