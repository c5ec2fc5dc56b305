"""Coming in and going out: the session is the API's, the browser holds its cookie."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from aimer2.core.errors import AimerError
from aimer2.dashboard.api import Api
from aimer2.dashboard.visit import Visit
from aimer2.web.answers import Answers, Endpoint, read_form
from aimer2.web.security import local_path


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


def _with_cookies(answer: Response, cookies: list[str]) -> Response:
    """What the API sets goes to the browser unchanged."""
    for cookie in cookies:
        answer.headers.append("set-cookie", cookie)
    return answer
