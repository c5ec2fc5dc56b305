"""One look at a page: who looks, what he may, and how the page is made."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from aimer2.core.errors import AimerError, NotAuthenticated
from aimer2.dashboard.api import Api
from aimer2.web.answers import Answers, read_form
from aimer2.web.security import check_origin
from aimer2.web.translation import Language

LOG = logging.getLogger("aimer2.dashboard")


@final
@dataclass(frozen=True, slots=True)
class Visit:
    """A request of a person who has logged in. ``me``: what the API says of him (`GET /v1/session`)."""

    request: Request
    api: Api
    answers: Answers
    me: dict[str, Any]

    @property
    def language(self) -> Language:
        return self.answers.language(self.request)

    def part(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    def asked(self, name: str, otherwise: str = "") -> str:
        return self.request.query_params.get(name, otherwise)

    def may(self, action: str) -> bool:
        """Whether the person's role has this permission at all; the API decides about the single study."""
        return action in self.me["actions"]

    async def get(self, path: str) -> Any:
        return await self.api.get(self.request, path)

    async def do(self, method: str, path: str, body: Any = None) -> Any:
        """Changes something. The form's token is handed on, and the API checks it."""
        form = await read_form(self.request)
        reply = await self.api.ask(self.request, method, path, body, csrf=form.get("csrf", ""))
        return reply.document if reply.body else None

    def page(self, template: str, *, current: str, **values: Any) -> Response:
        return self.answers.page(self.request, template, current=current, **(self._common() | values))

    def problem(self, error: AimerError) -> Response:
        return self.answers.problem(self.request, error, **self._common())

    def _common(self) -> dict[str, Any]:
        return {"person": self.me["user"], "role": self.me["role"], "actions": self.me["actions"], "csrf": self.me["csrf"]}


Page: TypeAlias = Callable[[Visit], Awaitable[Response]]


def visited(api: Api, answers: Answers, page: Page) -> Callable[[Request], Awaitable[Response]]:
    """The page as an endpoint: whoever has not logged in is led there and back; an error is a page."""

    async def endpoint(request: Request) -> Response:
        try:
            if request.method not in ("GET", "HEAD"):
                check_origin(request.headers)
            me = await api.get(request, "/v1/session")
        except NotAuthenticated:
            return _to_log_in(request)
        except AimerError as error:
            return answers.problem(request, error)
        visit = Visit(request, api, answers, me)
        try:
            return await page(visit)
        except NotAuthenticated:
            return _to_log_in(request)
        except AimerError as error:
            return visit.problem(error)
        except Exception as error:  # noqa: BLE001 - the edge of a request
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = last.filename.rpartition("/")[2]
            LOG.error("%s %s: %s at %s:%d", request.method, request.url.path, type(error).__name__, place, last.lineno or 0)
            return visit.problem(AimerError("Something went wrong in the coordinator."))

    return endpoint


def _to_log_in(request: Request) -> Response:
    wanted = request.url.path if request.method == "GET" else "/"
    query = f"?{request.url.query}" if request.url.query and request.method == "GET" else ""
    return RedirectResponse(f"/login?back={quote(wanted + query, safe='')}" if wanted != "/" else "/login", 303)
