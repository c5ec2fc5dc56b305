"""Transactions on drafts: each is its owner's alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from aimer2.coordinator.store.schema import drafts
from aimer2.core.errors import Conflict, NotFound
from aimer2.core.said import say

MOST = 100
"""Drafts of one person."""

_UNKNOWN = "You have no such draft."
_REMEDY = "`aimer2 study draft list` shows yours."


def add_draft(connection: Connection, identifier: str, owner: str, document: str, now: float) -> None:
    """Raises Conflict for more than `MOST`."""
    count = connection.execute(select(func.count()).select_from(drafts).where(drafts.c.owner == owner)).scalar_one()
    if count >= MOST:
        raise Conflict(say("You have {count} drafts, which is the most.", count=count), remedy="Discard those that you no longer need.")
    connection.execute(insert(drafts).values(id=identifier, owner=owner, document=document, revision=1, made=now, changed=now))


def read_drafts(connection: Connection, owner: str) -> Sequence[Row[Any]]:
    """The newest change first."""
    return connection.execute(select(drafts).where(drafts.c.owner == owner).order_by(drafts.c.changed.desc(), drafts.c.id)).all()


def read_draft(connection: Connection, identifier: str, owner: str) -> Row[Any]:
    """Raises NotFound, for another's draft too."""
    found = connection.execute(select(drafts).where(drafts.c.id == identifier, drafts.c.owner == owner)).one_or_none()
    if found is None:
        raise NotFound(_UNKNOWN, remedy=_REMEDY)
    return found


def change_draft(connection: Connection, identifier: str, owner: str, document: str, revision: int, now: float) -> None:
    """Raises NotFound; Conflict where it is no longer the draft of this revision."""
    known = read_draft(connection, identifier, owner)
    mine = (drafts.c.id == identifier, drafts.c.owner == owner, drafts.c.revision == revision)
    changed = connection.execute(update(drafts).where(*mine).values(document=document, revision=revision + 1, changed=now))
    if changed.rowcount != 1:
        raise _changed(known, "change")


def discard_draft(connection: Connection, identifier: str, owner: str, revision: int | None) -> None:
    """Raises NotFound; Conflict where a revision is named and it is no longer the draft of this one."""
    known = read_draft(connection, identifier, owner)
    revision = known.revision if revision is None else revision
    if connection.execute(delete(drafts).where(drafts.c.id == identifier, drafts.c.revision == revision)).rowcount != 1:
        raise _changed(known, "discard")


def _changed(known: Row[Any], deed: str) -> Conflict:
    return Conflict(
        say("The draft was changed meanwhile: it is at revision {revision}.", revision=known.revision),
        remedy=say("Read it again, then {deed} it.", deed=deed),
    )
