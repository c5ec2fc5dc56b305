"""Transactions on what sites tell of themselves: of each thing the last word, as the site has signed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from aimer2.coordinator.store.schema import told


def keep(connection: Connection, kind: str, site: str, subject: str, time: float, statement: str) -> bool:
    """In place of what the site told of this before; False where that was later: then nothing changes."""
    mine = (told.c.kind == kind, told.c.site == site, told.c.subject == subject)
    known = connection.execute(select(told.c.time).where(*mine)).scalar_one_or_none()
    if known is not None and known > time:
        return False
    connection.execute(delete(told).where(*mine))
    connection.execute(insert(told).values(kind=kind, site=site, subject=subject, time=time, statement=statement))
    return True


def read(connection: Connection, kind: str) -> Sequence[Row[Any]]:
    return connection.execute(select(told).where(told.c.kind == kind).order_by(told.c.subject, told.c.site)).all()
