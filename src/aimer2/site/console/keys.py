"""Whose key this hospital has verified, and which of a study's are missing: what secure aggregation rests on."""

from __future__ import annotations

from typing import Literal

from starlette.responses import Response

from aimer2.core.errors import BadInput
from aimer2.identity.keys import PublicKey
from aimer2.site.address_book import signer_of
from aimer2.site.console.door import Page, Visit

_STANDINGS = {"own": "good", "verified": "good", "changed": "bad", "unknown": "warn"}


def show(visit: Visit) -> Response:
    decisions = visit.console.decisions
    book = decisions.address_book
    wanted: dict[tuple[str, str], list[str]] = {}
    for known in decisions.store.studies():
        if known.package is not None and known.state in ("offered", "running", "paused"):
            for site, key in known.package.roster.items():
                wanted.setdefault((site, key), []).append(known.package.study.name)
    missing = [(site, key, book.standing(site, key), names) for (site, key), names in sorted(wanted.items())]
    return visit.page(
        "keys.html",
        current="/keys",
        site=book.site,
        own=book.key.public.fingerprint,
        entries=list(book.entries().values()),
        fingerprint=_fingerprint,
        missing=[one for one in missing if one[2] not in ("own", "verified")],
    )


def _fingerprint(key: str | None) -> str:
    try:
        return PublicKey.from_text(key or "").fingerprint
    except BadInput:
        return ""


def verify(visit: Visit) -> Response:
    """The digits that somebody at the other hospital has read out, and the statement that it has handed over; either or both."""
    decisions, by = visit.console.decisions, visit.person.name
    site, digits, statement = visit.field("site"), visit.field("fingerprint"), visit.field("statement")
    if not digits and not statement:
        raise BadInput("Give the fingerprint that you were told, or a statement.")
    how: Literal["telephone", "in-person"] = "in-person" if visit.field("how") == "in-person" else "telephone"
    book = decisions.address_book
    if digits:
        given = [signer_of(statement, site)] if statement else decisions.keys_given(site)
        book.verify(site, digits, given, by=by, how=how)
    if statement:
        book.take(statement, site, by=by)
    return visit.go("/keys", "verified")


def remove(visit: Visit) -> Response:
    if not visit.field("reason"):
        raise BadInput("Say why, for the audit log.")
    visit.console.decisions.address_book.remove(visit.field("site"), by=visit.person.name, reason=visit.field("reason"))
    return visit.go("/keys", "taken-out")


def sign(visit: Visit) -> Response:
    """The statement of what was verified here, as a file for other hospitals."""
    book = visit.console.decisions.address_book
    headers = {"Content-Disposition": f'attachment; filename="{book.site}.statement"', "Cache-Control": "no-store"}
    return Response(book.sign(by=visit.person.name) + "\n", 200, headers, "text/plain")


PAGES = (
    Page("GET", "/keys", "see", show),
    Page("POST", "/keys/verify", "verify keys", verify),
    Page("POST", "/keys/remove", "verify keys", remove),
    Page("POST", "/keys/sign", "verify keys", sign),
)
