"""Coming in and going out: the session is the API's, the browser holds its cookie."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from aimer2.core.errors import AimerError, BadInput
from aimer2.dashboard.api import Api
from aimer2.dashboard.visit import Visit
from aimer2.web.answers import Answers, Endpoint, read_form
from aimer2.web.security import local_path

_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
_PORT = re.compile(r"[1-9][0-9]{3,4}")


def log_in_page(api: Api, answers: Answers) -> Endpoint:
    async def page(request: Request) -> Response:
        back = local_path(request.query_params.get("back", "/"))
        openid = (await api.get(request, "/v1/openid"))["name"]
        return answers.page(request, "login.html", back=back, failed="", user="", openid=openid)

    return page


def log_in(api: Api, answers: Answers) -> Endpoint:
    async def page(request: Request) -> Response:
        form = await read_form(request)
        back = local_path(form.get("back", "/"))
        given = {"user": form.get("user", ""), "password": form.get("password", "")}
        try:
            reply = await api.ask(request, "POST", "/v1/session", given)
        except AimerError as error:
            openid = (await api.get(request, "/v1/openid"))["name"]
            return answers.page(request, "login.html", error.status, back=back, failed=error.sentence, user=given["user"][:200], openid=openid)
        return _with_cookies(RedirectResponse(back, 303), reply.all("set-cookie"))

    return page


async def log_out(visit: Visit) -> Response:
    form = await read_form(visit.request)
    reply = await visit.api.ask(visit.request, "DELETE", "/v1/session", csrf=form.get("csrf", ""))
    return _with_cookies(RedirectResponse("/login", 303), reply.all("set-cookie"))


async def command_line(visit: Visit) -> Response:
    """Asks whether a command line may be logged in as this person."""
    return visit.page("command_line.html", current="", handed=None, **_asking(visit.asked("challenge"), visit.asked("port")))


async def hand_on(visit: Visit) -> Response:
    """The code goes to the command line that listens on this computer, or is shown."""
    form = await read_form(visit.request)
    asking = _asking(form.get("challenge", ""), form.get("port", ""))
    made = await visit.do("POST", "/v1/session/code", {"challenge": asking["challenge"]})
    back = f"http://127.0.0.1:{asking['port']}/?code={made['code']}" if asking["port"] else ""
    answer = visit.page("command_line.html", current="", handed={"code": made["code"], "back": back}, **asking)
    if back:
        answer.headers["Refresh"] = f"0; url={back}"
    return answer


def _asking(challenge: str, port: str) -> dict[str, str]:
    """What the address that `aimer2 login --browser` shows says. Raises BadInput."""
    if not _CHALLENGE.fullmatch(challenge) or (port and not (_PORT.fullmatch(port) and int(port) < 1 << 16)):
        raise BadInput("This address is not whole.", remedy="Open the whole address that `aimer2 login --browser` shows.")
    return {"challenge": challenge, "port": port}


def _with_cookies(answer: Response, cookies: list[str]) -> Response:
    """What the API sets goes to the browser unchanged."""
    for cookie in cookies:
        answer.headers.append("set-cookie", cookie)
    return answer
