"""Who may log in here, with which roles."""

from __future__ import annotations

from starlette.responses import Response

from aimer2.core.errors import BadInput
from aimer2.site.console.door import Page, Visit
from aimer2.site.console.permissions import PERMISSIONS, ROLES


def show(visit: Visit, *, link: str = "", whose: str = "") -> Response:
    accounts = visit.console.accounts
    return visit.page("people.html", current="/people", people=accounts.people(), roles=ROLES, permissions=PERMISSIONS, link=link, whose=whose)


def add(visit: Visit) -> Response:
    """Shows the link by which the person chooses a password, once."""
    roles = [role for role in ROLES if visit.field(role) == "yes"]
    login = visit.field("login")
    secret = visit.console.accounts.add(login, visit.field("name"), roles, by=visit.person.name)
    return show(visit, link=f"{visit.console.place.address}/welcome/{secret}", whose=login)


def link(visit: Visit) -> Response:
    login = visit.field("login")
    secret = visit.console.accounts.link(login, by=visit.person.name)
    return show(visit, link=f"{visit.console.place.address}/welcome/{secret}", whose=login)


def remove(visit: Visit) -> Response:
    if visit.field("login") == visit.person.login:
        raise BadInput("Nobody closes their own account.", remedy="Another administrator does it, or `aimer2 site user remove`.")
    visit.console.accounts.remove(visit.field("login"), by=visit.person.name)
    return visit.go("/people", "person-removed")


PAGES = (
    Page("GET", "/people", "see", show),
    Page("POST", "/people/add", "manage people", add),
    Page("POST", "/people/link", "manage people", link),
    Page("POST", "/people/remove", "manage people", remove),
)
