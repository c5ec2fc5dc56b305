"""Logging in and out, and the link by which a person chooses a password: the pages for somebody who is not known yet."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from aimer2.core.errors import AimerError, BadInput
from aimer2.site.console.console import Console
from aimer2.web.answers import read_form
from aimer2.web.security import local_path


def entrance(console: Console) -> list[Route]:
    guard = console.answers.guard

    async def log_in_page(request: Request) -> Response:
        return console.answers.page(request, "log_in.html", back=local_path(request.query_params.get("back", "/")), problem=None, login="")

    async def log_in(request: Request) -> Response:
        form = await read_form(request)
        back = local_path(form.get("back", "/"))
        try:
            secret = await run_in_threadpool(console.accounts.log_in, form.get("login", ""), form.get("password", ""))
        except AimerError as error:
            return console.answers.page(request, "log_in.html", error.status, back=back, problem=error, login=form.get("login", "")[:64])
        # Whatever session the browser brought ends here: what somebody else may have planted is worth nothing.
        await run_in_threadpool(console.accounts.log_out, console.session_of(request))
        return console.keep_session(RedirectResponse(back, 303), secret)

    async def log_out(request: Request) -> Response:
        form = await read_form(request)
        console.forms.check(console.session_of(request), form.get("csrf", ""))
        await run_in_threadpool(console.accounts.log_out, console.session_of(request))
        return console.end_session(RedirectResponse("/log-in", 303))

    async def welcome_page(request: Request) -> Response:
        invited = await run_in_threadpool(console.accounts.invited, request.path_params["secret"])
        return console.answers.page(request, "welcome.html", invited=invited, problem=None, form={})

    async def welcome(request: Request) -> Response:
        form = await read_form(request)
        secret = request.path_params["secret"]
        try:
            if form.get("password") != form.get("again"):
                raise BadInput("The two passwords are not the same.", remedy="Type the same password twice.")
            given = {"login": form.get("login", "").strip(), "name": form.get("name", "")}
            await run_in_threadpool(lambda: console.accounts.accept(secret, form.get("password", ""), **given))
        except BadInput as error:
            invited = await run_in_threadpool(console.accounts.invited, secret)
            return console.answers.page(request, "welcome.html", error.status, invited=invited, problem=error, form=form)
        return RedirectResponse("/log-in", 303)

    return [
        Route("/log-in", guard(log_in_page), methods=["GET"]),
        Route("/log-in", guard(log_in), methods=["POST"]),
        Route("/log-out", guard(log_out), methods=["POST"]),
        Route("/welcome/{secret}", guard(welcome_page), methods=["GET"]),
        Route("/welcome/{secret}", guard(welcome), methods=["POST"]),
    ]
