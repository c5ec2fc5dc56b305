"""The consortium: its hospitals, whom it invites, what they have agreed on."""

from __future__ import annotations

from typing import Any

from starlette.responses import RedirectResponse, Response

from aimer2.dashboard.api import route
from aimer2.dashboard.visit import Visit
from aimer2.web.answers import read_form


async def consortium(visit: Visit) -> Response:
    return await _consortium(visit)


async def _consortium(visit: Visit, made: Any = None) -> Response:
    """``made``: a new invitation, whose text is shown this once."""
    members, agreements = await visit.get("/v1/members"), await visit.get("/v1/agreements")
    return visit.page(
        "consortium.html",
        current="/consortium",
        members=members,
        present=sum(one["left"] is None for one in members),
        invitations=list(reversed(await visit.get("/v1/invitations"))),
        agreements=agreements,
        titles={one["digest"]: one["title"] for one in agreements},
        own_site=visit.me["site"],
        made=made,
    )


async def invite(visit: Visit) -> Response:
    asked = {"site": (await read_form(visit.request)).get("site", "").strip()}
    return await _consortium(visit, await visit.do("POST", "/v1/invitations", asked))


async def take_back(visit: Visit) -> Response:
    await visit.do("DELETE", route("/v1/invitations/{}", visit.part("identifier")))
    return RedirectResponse("/consortium", 303)


async def off_board_page(visit: Visit) -> Response:
    """Asks once more, and why."""
    return visit.page("off_board.html", current="/consortium", site=visit.part("site"))


async def off_board(visit: Visit) -> Response:
    reason = (await read_form(visit.request)).get("reason", "")
    await visit.do("POST", route("/v1/members/{}/off-boarding", visit.part("site")), {"reason": reason})
    return RedirectResponse("/consortium", 303)


async def add_agreement(visit: Visit) -> Response:
    form = await read_form(visit.request)
    new = {"title": form.get("title", "").strip(), "dated": form.get("dated", ""), "digest": form.get("digest", "").strip().lower()}
    await visit.do("POST", "/v1/agreements", new)
    return RedirectResponse("/consortium", 303)


async def accept(visit: Visit) -> Response:
    by = (await read_form(visit.request)).get("by", "").strip()
    await visit.do("POST", route("/v1/agreements/{}/acceptances", visit.part("digest")), {"by": by})
    return RedirectResponse("/consortium", 303)
