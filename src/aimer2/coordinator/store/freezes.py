"""Transactions on the freeze: everything stops at once, and stays so over restarts until it is thawed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from aimer2.coordinator.store.database import note_change
from aimer2.coordinator.store.schema import freezes, sites
from aimer2.coordinator.store.studies import EventRow, pause_running
from aimer2.core.errors import Conflict
from aimer2.core.said import say


def read_freeze(connection: Connection) -> Row[Any] | None:
    """The freeze that is in force."""
    last = connection.execute(select(freezes).order_by(freezes.c.number.desc()).limit(1)).one_or_none()
    return last if last is not None and last.frozen else None


def add_freeze(connection: Connection, by: str, reason: str, now: float, paused: EventRow) -> list[str]:
    """Pauses every running study, whose last event is then ``paused``; their digests. Raises Conflict where it is frozen already."""
    known = read_freeze(connection)
    if known is not None:
        raise Conflict(say("It is frozen already, by {by}: {reason}", by=known.by, reason=known.reason))
    _add(connection, 1, by, reason, now)
    return pause_running(connection, f"Frozen by {by}: {reason}", paused)


def add_thaw(connection: Connection, by: str, reason: str, now: float) -> None:
    """Raises Conflict where nothing is frozen."""
    if read_freeze(connection) is None:
        raise Conflict("Nothing is frozen.")
    _add(connection, 0, by, reason, now)


def _add(connection: Connection, frozen: int, by: str, reason: str, now: float) -> None:
    connection.execute(insert(freezes).values(frozen=frozen, by=by, reason=reason, time=now))
    # Every site is told: at once on its open line, else at its next contact.
    connection.execute(update(sites).values(revision=sites.c.revision + 1))
    note_change(connection, "registry")
