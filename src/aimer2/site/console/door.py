"""The way into the console: which names it answers to, who asks, whether the form is of their session, whether they may."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from aimer2.core.errors import AimerError, NotAllowed, NotFound
from aimer2.core.said import mark, say
from aimer2.site.console.accounts import Person
from aimer2.site.console.console import Console
from aimer2.site.console.permissions import Action
from aimer2.web.answers import read_form
from aimer2.web.security import check_origin, local_path

_LOG = logging.getLogger("aimer2.site.console")

NOTICES: Final[Mapping[str, str]] = {
    "approved": mark("Approved. It is in force from now on."),
    "refused": mark("Refused. The researcher is told your reason."),
    "withdrawn": mark("Withdrawn. Nothing of this study runs here any more."),
    "not-told": mark("In force here. The agent does not run; the coordinator is told when it starts."),
    "budget-set": mark("The budget is in force from now on."),
    "budget-proposed": mark("Proposed. It is not in force until a second person has confirmed it."),
    "verified": mark("The key is verified here from now on."),
    "taken-out": mark("The key no longer counts here."),
    "published": mark("The consortium may see this description. That is recorded in the audit log."),
    "taken-back": mark("Taken back here. The coordinator is told as soon as it is reached."),
    "mapping-kept": mark("Kept. It holds from the next refresh on."),
    "deleted": mark("The model is deleted."),
    "report-written": mark("The report is written and signed anew."),
    "frozen": mark("Frozen: no worker runs, and every task is refused."),
    "thawed": mark("Thawed: approvals that are in force count again."),
    "person-removed": mark("The account is closed."),
    "begun": mark("It has begun."),
}
"""What a page says first after something was done; an address names one of these, never a text."""


@final
@dataclass(frozen=True, slots=True)
class Visit:
    """One request of one person: what a page's function is given."""

    console: Console
    request: Request
    person: Person
    csrf: str
    form: Mapping[str, str]

    def name(self, part: str) -> str:
        """A part of the address."""
        return str(self.request.path_params[part])

    def asked(self, name: str, otherwise: str = "") -> str:
        """What stands behind the question mark of the address."""
        return self.request.query_params.get(name, otherwise)

    def field(self, name: str) -> str:
        return self.form.get(name, "").strip()

    def text(self, message: str) -> str:
        """The message in the reader's language."""
        return self.console.answers.language(self.request).text(message)

    def page(self, template: str, *, current: str, **values: Any) -> Response:
        notice = NOTICES.get(self.asked("done"), "")
        given = {"person": self.person.name, "csrf": self.csrf, "notice": self.text(notice) if notice else ""}
        return self.console.answers.page(self.request, template, current=current, me=self.person, **(given | values))

    def problem(self, error: AimerError) -> Response:
        return self.console.answers.problem(self.request, error, person=self.person.name, csrf=self.csrf, me=self.person)

    def go(self, path: str, done: str = "") -> Response:
        """To a page of this console, which says what was done."""
        return RedirectResponse(f"{local_path(path)}?done={done}" if done else local_path(path), 303)


@final
@dataclass(frozen=True, slots=True)
class Page:
    """One route: who may ask for it stands beside it."""

    method: str
    path: str
    action: Action
    answer: Callable[[Visit], Response]


Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


def opened(console: Console, pages: Sequence[Page]) -> Endpoint:
    """The endpoint of the pages of one path, by their method. Pages are functions that block; each runs in a thread."""
    by_method = {page.method: page for page in pages}

    async def answer(request: Request) -> Response:
        page = by_method["GET" if request.method == "HEAD" else request.method]
        person = await run_in_threadpool(console.who, request)
        if person is None:
            return _to_log_in(request)
        csrf = console.forms.token(console.session_of(request))
        visit = Visit(console, request, person, csrf, {})
        try:
            if not person.may(page.action):
                raise NotAllowed("Your account has no role that may do this.", remedy="Ask an administrator of this site.")
            if page.method == "POST":
                check_origin(request.headers)
                form = await read_form(request)
                console.forms.check(console.session_of(request), form.pop("csrf", ""))
                visit = Visit(console, request, person, csrf, form)
            return await run_in_threadpool(page.answer, visit)
        except AimerError as error:
            return visit.problem(error)
        except Exception as error:  # noqa: BLE001 - the edge of a request: the text of what was raised may quote a record
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = last.filename.rpartition("/")[2]
            _LOG.error("%s %s: %s at %s:%d", request.method, page.path, type(error).__name__, place, last.lineno or 0)
            return visit.problem(AimerError("Something went wrong at this site's console."))

    return answer


def _to_log_in(request: Request) -> Response:
    back = request.url.path if request.method == "GET" else "/"
    return RedirectResponse(f"/log-in?back={quote(back)}", 303)


@final
class KnownHosts:
    """An application that answers to its own names alone: a page elsewhere whose name was made to mean this machine (DNS rebinding) gets
    nothing."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            named = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
            if len(named) != 1 or named[0] not in self._hosts:
                await PlainTextResponse("This console does not answer to that name.\n", 421)(scope, receive, send)
                return
        await self._app(scope, receive, send)


@final
class WholeFolder:
    """An application that answers nothing but why while the site's folder is older than its audit log: no log-in, no link, no decision."""

    def __init__(self, app: ASGIApp, console: Console) -> None:
        self._app = app
        self._console = console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith("/static/"):
            try:
                await run_in_threadpool(self._console.check_whole)
            except AimerError as error:
                await self._console.answers.problem(Request(scope), error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def not_found(what: str) -> NotFound:
    return NotFound(say("There is no such {what} here.", what=what))
