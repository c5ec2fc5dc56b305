"""Transactions on tasks and their replies."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from sqlalchemy import Connection, Row, delete, select, tuple_, update

from aimer2.coordinator.store.database import Prepared, note_change
from aimer2.coordinator.store.schema import tasks

Key = tuple[str, int]
"""A task's id and attempt."""

_STATES = ("open", "answered", "withdrawn")


@final
@dataclass(frozen=True, slots=True)
class NewTask:
    """A task with its document, and the reply where the coordinator knows it without asking."""

    id: str
    attempt: int
    study: str
    site: str
    document: str
    reply: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Put:
    """What stands in the table now: replies of tasks that were known and answered, and the topic's new number."""

    replies: Mapping[Key, str]
    withdrawn: frozenset[Key]
    number: int


_INSERT = Prepared("""
    INSERT INTO tasks (id, attempt, study, site, state, document, reply, put)
    VALUES (:id, :attempt, :study, :site, :state, :document, :reply, :put) ON CONFLICT DO NOTHING
""")


def put_tasks(connection: Connection, new: Sequence[NewTask], now: float) -> Put:
    """Adds those that are not known; a withdrawn one is open again."""
    rows = [
        {
            "id": task.id,
            "attempt": task.attempt,
            "study": task.study,
            "site": task.site,
            "state": "open" if task.reply is None else "answered",
            "document": task.document,
            "reply": task.reply,
            "put": now,
        }
        for task in new
    ]
    if not rows or _INSERT.run_many(connection, rows) == len(rows):
        return Put({}, frozenset(), note_change(connection, "tasks"))
    there = {(row.id, row.attempt): row for row in find_tasks(connection, [(task.id, task.attempt) for task in new])}
    again = [key for key, row in there.items() if row.state == "withdrawn"]
    if again:
        connection.execute(update(tasks).where(tuple_(tasks.c.id, tasks.c.attempt).in_(again)).values(state="open"))
    return Put({key: row.reply for key, row in there.items() if row.reply is not None}, frozenset(again), note_change(connection, "tasks"))


def find_tasks(connection: Connection, keys: Collection[Key]) -> Sequence[Row[Any]]:
    return connection.execute(select(tasks).where(tuple_(tasks.c.id, tasks.c.attempt).in_(list(keys)))).all()


def open_tasks(connection: Connection) -> Sequence[Row[Any]]:
    """Every task that waits for its site."""
    return connection.execute(select(tasks).where(tasks.c.state == "open").order_by(tasks.c.put)).all()


_ANSWER = Prepared("""
    UPDATE tasks SET state = 'answered', reply = :reply, answered = :now WHERE id = :id AND attempt = :attempt AND state = 'open'
""")


def record_replies(connection: Connection, replies: Iterable[tuple[Key, str]], now: float, *, tell: bool) -> int | None:
    """Stores the first reply to each open task; with ``tell`` other processes are told (the topic's new number)."""
    _ANSWER.run_many(connection, [{"id": id, "attempt": attempt, "reply": text, "now": now} for (id, attempt), text in replies])
    return note_change(connection, "tasks") if tell else None


_WITHDRAW = Prepared("UPDATE tasks SET state = 'withdrawn' WHERE id = :id AND attempt = :attempt AND state = 'open'")


def withdraw_tasks(connection: Connection, keys: Sequence[Key]) -> int:
    _WITHDRAW.run_many(connection, [{"id": id, "attempt": attempt} for id, attempt in keys])
    return note_change(connection, "tasks")


def erase_tasks(connection: Connection, study: str, most: int) -> int:
    """Erases so many tasks of a study that has ended, with their replies, whose figures its events and result have; how many it were."""
    known = tasks.c.state.in_(_STATES)  # for the index on (state, study)
    keys = connection.execute(select(tasks.c.id, tasks.c.attempt).where(known, tasks.c.study == study).limit(most)).all()
    if keys:
        connection.execute(delete(tasks).where(tuple_(tasks.c.id, tasks.c.attempt).in_([(row.id, row.attempt) for row in keys])))
    return len(keys)
