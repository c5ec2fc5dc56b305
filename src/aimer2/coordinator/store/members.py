"""Transactions on which sites take part: sites, invitations, uploads, and the assertions that were used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from aimer2.coordinator.store.database import Prepared, note_change
from aimer2.coordinator.store.schema import assertions, decisions, invitations, sites, told
from aimer2.core.errors import Conflict, NotAllowed, NotFound
from aimer2.core.said import say


@final
@dataclass(frozen=True, slots=True)
class Enrolment:
    """A site that hands in an invitation's code."""

    code_hash: str
    site: str
    key: str
    now: float


def enrol(connection: Connection, enrolment: Enrolment) -> bool:
    """Uses the invitation up and records the site; False where exactly this was done before (its answer was lost on the way).

    Of a site that was revoked, nothing that it decided or told before counts any more.

    Raises NotAllowed for a code that is unknown, used, expired or meant for another site: always with the same sentence. Conflict where the
    site is enrolled already.
    """
    found = connection.execute(select(invitations).where(invitations.c.code_hash == enrolment.code_hash).with_for_update()).one_or_none()
    if (
        found is None
        or found.revoked is not None
        or found.expires < enrolment.now
        or found.site != enrolment.site
        or found.used_by_key not in (None, enrolment.key)
    ):
        raise NotAllowed("This invitation is not valid (any more).", remedy="Ask the operator of the coordinator for a new invitation.")
    known = connection.execute(select(sites).where(sites.c.site == enrolment.site)).one_or_none()
    if found.used_by_key is not None and known is not None and known.key == enrolment.key and known.revoked is None:
        return False
    if found.used_by_key is not None or (known is not None and known.revoked is None):
        raise Conflict(
            say("The site {site} is enrolled already.", site=enrolment.site), remedy="The operator revokes it first, then invites it again."
        )
    connection.execute(update(invitations).where(invitations.c.code_hash == enrolment.code_hash).values(used_by_key=enrolment.key))
    values: dict[str, Any] = {"key": enrolment.key, "enrolled": enrolment.now, "revoked": None, "left_by": None, "left_reason": None}
    if known is None:
        connection.execute(insert(sites).values(site=enrolment.site, **values))
    else:
        values["first_decision"] = 1 + (connection.scalar(select(func.max(decisions.c.number))) or 0)
        connection.execute(update(sites).where(sites.c.site == enrolment.site).values(**values, revision=sites.c.revision + 1))
        connection.execute(delete(told).where(told.c.site == enrolment.site))
    note_change(connection, "registry")
    return True


def add_invitation(connection: Connection, code_hash: str, site: str, now: float, expires: float, by: str = "") -> None:
    """Raises Conflict where the site is enrolled already."""
    known = connection.execute(select(sites.c.revoked).where(sites.c.site == site)).one_or_none()
    if known is not None and known.revoked is None:
        raise Conflict(
            say("The site {site} is enrolled already.", site=site),
            remedy=say("`aimer2 coordinator revoke {site}` first, then invite it again.", site=site),
        )
    connection.execute(insert(invitations).values(code_hash=code_hash, site=site, made=now, expires=expires, made_by=by))


def read_sites(connection: Connection) -> list[Row[Any]]:
    return list(connection.execute(select(sites).order_by(sites.c.site)).all())


def change_key(connection: Connection, site: str, old: str, new: str) -> None:
    """Raises Conflict where the site's key is no longer the old one."""
    changed = connection.execute(update(sites).where(sites.c.site == site, sites.c.key == old, sites.c.revoked.is_(None)).values(key=new))
    if changed.rowcount != 1:
        raise Conflict("The site's key was changed meanwhile.")
    note_change(connection, "registry")


def revoke_site(connection: Connection, site: str, now: float, by: str = "", reason: str = "") -> None:
    """With its open invitations. Raises NotFound where there is no such site, Conflict where it is revoked already."""
    found = connection.execute(select(sites.c.revoked).where(sites.c.site == site)).one_or_none()
    if found is None:
        raise NotFound(say("There is no site {site}.", site=site), remedy="`aimer2 coordinator sites` lists them.")
    if found.revoked is not None:
        raise Conflict(say("The site {site} is revoked already.", site=site))
    connection.execute(update(sites).where(sites.c.site == site).values(revoked=now, left_by=by, left_reason=reason))
    still_open = (invitations.c.site == site) & invitations.c.used_by_key.is_(None) & invitations.c.revoked.is_(None)
    connection.execute(update(invitations).where(still_open).values(revoked=now, revoked_by=by))
    note_change(connection, "registry")


def note_contacts(connection: Connection, contacts: Mapping[str, tuple[float, str]]) -> None:
    """When each site was last heard of, and the status (JSON) that it gave."""
    rows = [{"name": site, "seen": seen, "said": status} for site, (seen, status) in contacts.items()]
    statement = update(sites).where(sites.c.site == bindparam("name")).values(last_contact=bindparam("seen"), status=bindparam("said"))
    connection.execute(statement, rows)


def use_assertion(connection: Connection, identifier: str, until: float, now: float) -> bool:
    """True the first time that this assertion is used."""
    connection.execute(delete(assertions).where(assertions.c.until < now))
    try:
        with connection.begin_nested():
            connection.execute(insert(assertions).values(identifier=identifier, until=until))
    except IntegrityError:
        return False
    return True


_NOTE_UPLOAD = Prepared("INSERT INTO uploads (sha256, owner) VALUES (:sha256, :owner) ON CONFLICT DO NOTHING")
_UPLOADED = Prepared("SELECT 1 FROM uploads WHERE sha256 = :sha256 AND owner = :owner")
_DROP_UPLOAD = Prepared("DELETE FROM uploads WHERE sha256 = :sha256 AND owner = :owner")
_OTHERS = Prepared("SELECT 1 FROM uploads WHERE sha256 = :sha256 LIMIT 1")


def note_upload(connection: Connection, sha256: str, owner: str) -> None:
    _NOTE_UPLOAD.run(connection, {"sha256": sha256, "owner": owner})


def has_uploaded(connection: Connection, sha256: str, owner: str) -> bool:
    return _UPLOADED.run(connection, {"sha256": sha256, "owner": owner}).fetchone() is not None


def drop_upload(connection: Connection, sha256: str, owner: str) -> bool:
    """True where nobody else has uploaded the same bytes: then they need not be kept."""
    _DROP_UPLOAD.run(connection, {"sha256": sha256, "owner": owner})
    return _OTHERS.run(connection, {"sha256": sha256}).fetchone() is None
