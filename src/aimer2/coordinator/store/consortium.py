"""Transactions on the consortium: who was invited by whom, who has left, what the members have accepted."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from aimer2.coordinator.store.schema import acceptances, agreements, invitations, sites
from aimer2.core.errors import Conflict, NotFound
from aimer2.core.said import say
from aimer2.messages.consortium import Acceptance, Agreement, InvitationStatus, Member, NewAgreement

ID_LENGTH = 16
"""Digits of a code's hash that name an invitation to people."""


def read_invitations(connection: Connection, now: float) -> list[InvitationStatus]:
    """The oldest first."""
    return [_invitation(row, now) for row in connection.execute(select(invitations).order_by(invitations.c.made, invitations.c.code_hash))]


def revoke_invitation(connection: Connection, identifier: str, by: str, now: float) -> InvitationStatus:
    """Raises NotFound; Conflict for one that is not open."""
    found = next((row for row in connection.execute(select(invitations)) if row.code_hash[:ID_LENGTH] == identifier), None)
    if found is None:
        raise NotFound("There is no such invitation.")
    if (state := _invitation(found, now).state) != "open":
        raise Conflict(say("The invitation is {state} already.", state=state))
    mine = invitations.c.code_hash == found.code_hash
    connection.execute(update(invitations).where(mine).values(revoked=now, revoked_by=by))
    return _invitation(connection.execute(select(invitations).where(mine)).one(), now)


def read_members(connection: Connection) -> list[Member]:
    inviters = {
        (row.site, row.used_by_key): row.made_by
        for row in connection.execute(select(invitations).where(invitations.c.used_by_key.is_not(None)).order_by(invitations.c.made))
    }
    accepted: dict[str, list[str]] = {}
    for row in connection.execute(select(acceptances).order_by(acceptances.c.accepted)):
        accepted.setdefault(row.site, []).append(row.agreement)
    return [
        Member(
            site=row.site,
            key=row.key,
            enrolled=row.enrolled,
            # After a change of the key the invitation knows the first one only.
            invited_by=inviters.get((row.site, row.key)) or next((by for (site, _), by in reversed(inviters.items()) if site == row.site), ""),
            left=row.revoked,
            left_by=row.left_by or "",
            left_reason=row.left_reason or "",
            agreements=tuple(accepted.get(row.site, ())),
        )
        for row in connection.execute(select(sites).order_by(sites.c.site))
    ]


def read_agreements(connection: Connection) -> list[Agreement]:
    """With who has accepted each, the oldest first."""
    accepted: dict[str, list[Acceptance]] = {}
    for row in connection.execute(select(acceptances).order_by(acceptances.c.accepted)):
        one = Acceptance(site=row.site, by=row.by, recorded_by=row.recorded_by, accepted=row.accepted)
        accepted.setdefault(row.agreement, []).append(one)
    return [
        Agreement(
            digest=row.digest,
            title=row.title,
            dated=row.dated,
            added_by=row.added_by,
            added=row.added,
            acceptances=tuple(accepted.get(row.digest, ())),
        )
        for row in connection.execute(select(agreements).order_by(agreements.c.added))
    ]


def add_agreement(connection: Connection, new: NewAgreement, by: str, now: float) -> None:
    """Raises Conflict where this document is there already."""
    if connection.execute(select(agreements.c.digest).where(agreements.c.digest == new.digest)).first() is not None:
        raise Conflict("This document is before the members already.")
    connection.execute(insert(agreements).values(**new.model_dump(), added_by=by, added=now))


def accept(connection: Connection, agreement: str, one: Acceptance) -> None:
    """Raises NotFound; Conflict where the hospital has accepted it already, or is no member."""
    if connection.execute(select(agreements.c.digest).where(agreements.c.digest == agreement)).first() is None:
        raise NotFound("There is no such agreement.", remedy="`aimer2 consortium agreements` lists them.")
    member = connection.execute(select(sites.c.revoked).where(sites.c.site == one.site)).one_or_none()
    if member is None or member.revoked is not None:
        raise Conflict(say("{site} is no member of the consortium.", site=one.site))
    if connection.execute(select(acceptances).where(acceptances.c.agreement == agreement, acceptances.c.site == one.site)).first() is not None:
        raise Conflict(say("{site} has accepted this already.", site=one.site))
    connection.execute(insert(acceptances).values(agreement=agreement, **one.model_dump()))


def _invitation(row: Row[Any], now: float) -> InvitationStatus:
    state = "used" if row.used_by_key else "revoked" if row.revoked is not None else "expired" if row.expires < now else "open"
    return InvitationStatus(
        id=row.code_hash[:ID_LENGTH],
        site=row.site,
        made=row.made,
        made_by=row.made_by,
        expires=row.expires,
        state=state,
        revoked_by=row.revoked_by or "",
    )
