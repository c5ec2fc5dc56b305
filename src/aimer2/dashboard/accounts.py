"""Who has an account at the coordinator, and one's own: log-ins, password, tokens for scripts."""

from __future__ import annotations

from typing import Any

from starlette.responses import RedirectResponse, Response

from aimer2.core.errors import BadInput
from aimer2.dashboard.api import route
from aimer2.dashboard.visit import Visit
from aimer2.web.answers import read_form

ROLES = ("operator", "principal-investigator", "researcher", "site-administrator", "data-protection-officer", "auditor")


async def people(visit: Visit) -> Response:
    return await _people(visit)


async def _people(visit: Visit, made: Any = None) -> Response:
    """``made``: a new account, whose password is shown this once."""
    found = await visit.get("/v1/people")
    return visit.page("people.html", current="/people", people=sorted(found, key=lambda one: one["name"]), roles=ROLES, made=made)


async def add_person(visit: Visit) -> Response:
    form = await read_form(visit.request)
    new = {"name": form.get("name", "").strip(), "role": form.get("role", ""), "site": form.get("site", "").strip() or None}
    return await _people(visit, await visit.do("POST", "/v1/people", new))


async def change_person(visit: Visit) -> Response:
    form = await read_form(visit.request)
    wanted = {"role": form.get("role", ""), "site": form.get("site", "").strip() or None}
    await visit.do("PUT", route("/v1/people/{}", _named(form)), wanted)
    return RedirectResponse("/people", 303)


async def log_person_out(visit: Visit) -> Response:
    await visit.do("DELETE", route("/v1/people/{}/sessions", _named(await read_form(visit.request))))
    return RedirectResponse("/people", 303)


async def close_person(visit: Visit) -> Response:
    await visit.do("DELETE", route("/v1/people/{}", _named(await read_form(visit.request))))
    return RedirectResponse("/people", 303)


def _named(form: dict[str, str]) -> str:
    """An account may bear any name, also one that is no part of a path, so the form names it and not the address."""
    name = form.get("name", "")
    if not name:
        raise BadInput("The form names nobody.")
    return name


async def account(visit: Visit) -> Response:
    return await _account(visit)


async def _account(visit: Visit, made: Any = None) -> Response:
    """``made``: a new token, shown this once."""
    return visit.page(
        "account.html",
        current="/account",
        me=visit.me,
        log_ins=await visit.get("/v1/sessions"),
        tokens=await visit.get("/v1/service-tokens"),
        roles=ROLES,
        made=made,
    )


async def make_token(visit: Visit) -> Response:
    form = await read_form(visit.request)
    wanted = {"name": form.get("name", "").strip(), "role": form.get("role") or None, "days": form.get("days", "")}
    return await _account(visit, await visit.do("POST", "/v1/service-tokens", wanted))


async def revoke_token(visit: Visit) -> Response:
    await visit.do("DELETE", route("/v1/service-tokens/{}", (await read_form(visit.request)).get("token", "") or "-"))
    return RedirectResponse("/account", 303)


async def change_password(visit: Visit) -> Response:
    form = await read_form(visit.request)
    if form.get("new") != form.get("again"):
        raise BadInput("The two passwords are not the same.", remedy="Type the same password twice.")
    await visit.do("PUT", "/v1/session/password", {"old": form.get("old", ""), "new": form.get("new", "")})
    return RedirectResponse("/account", 303)


async def log_out_everywhere(visit: Visit) -> Response:
    await visit.do("DELETE", "/v1/sessions")
    return RedirectResponse("/login", 303)
