"""Transactions on what sites tell of themselves: of each thing the last word, as the site has signed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from aimer2.coordinator.store.schema import sites, told
from aimer2.core.errors import Conflict


def keep(connection: Connection, kind: str, site: str, subject: str, time: float, statement: str) -> bool:
    """In place of what the site told of this before; False where it says just that again. Raises Conflict where that was later."""
    mine = (told.c.kind == kind, told.c.site == site, told.c.subject == subject)
    known = connection.execute(select(told.c.time, told.c.statement).where(*mine)).one_or_none()
    if known is not None and known.time > time:
        raise Conflict("The site has told something later of this.", remedy="Tell it anew, dated by a clock that is right.")
    if known is not None and known.statement == statement:
        return False
    connection.execute(delete(told).where(*mine))
    connection.execute(insert(told).values(kind=kind, site=site, subject=subject, time=time, statement=statement))
    return True


def read(connection: Connection, kind: str) -> Sequence[Row[Any]]:
    """Of sites that take part: what was told under a revoked key counts no longer."""
    members = select(told).join(sites, sites.c.site == told.c.site).where(told.c.kind == kind, sites.c.revoked.is_(None))
    return connection.execute(members.order_by(told.c.subject, told.c.site)).all()
