"""The connection to SQLite or PostgreSQL: transactions are functions; those on a server are waited for in threads."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar, final

from sqlalchemy import Connection, bindparam, create_engine, event, insert, select, update
from sqlalchemy.engine import make_url

from aimer2.coordinator.store.schema import changes
from aimer2.core.errors import BadInput

_P = ParamSpec("_P")
_T = TypeVar("_T")

TOPICS = ("registry", "tasks")
"""registry: sites, users, studies, decisions. tasks: tasks and replies that another process waits for."""

_BUSY_SECONDS = 30


@final
class Database:
    """Runs transactions. A transaction is a function whose first parameter is the connection: committed when it returns, undone when it raises."""

    def __init__(self, url: str) -> None:
        """Raises BadInput for an address that is neither SQLite nor PostgreSQL (psycopg)."""
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if not self.is_sqlite and self.url.drivername != "postgresql+psycopg":
            raise BadInput("The database is sqlite:///… or postgresql+psycopg://….")
        self.engine = create_engine(self.url, pool_size=8, pool_pre_ping=not self.is_sqlite)
        if self.is_sqlite:
            event.listen(self.engine, "connect", _configure)
            event.listen(self.engine, "begin", _begin)
        self._kept = threading.local()
        # A transaction on SQLite is done where it is asked for: it takes less time than handing it to a thread and back.
        self._threads = ThreadPoolExecutor(4, "database")

    async def write(self, transaction: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **named: _P.kwargs) -> _T:
        if self.is_sqlite:
            return self.write_now(transaction, *args, **named)
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: self.write_now(transaction, *args, **named))

    async def read(self, transaction: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **named: _P.kwargs) -> _T:
        if self.is_sqlite:
            return self.read_now(transaction, *args, **named)
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: self.read_now(transaction, *args, **named))

    def write_now(self, transaction: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **named: _P.kwargs) -> _T:
        if self.is_sqlite:
            kept = self._kept_connection("writer", aimer2_writes=True)
            with kept.begin():
                return transaction(kept, *args, **named)
        with self.engine.begin() as connection:
            return transaction(connection, *args, **named)

    def read_now(self, transaction: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **named: _P.kwargs) -> _T:
        if self.is_sqlite:
            kept = self._kept_connection("reader", aimer2_writes=False)
            with kept.begin():
                return transaction(kept, *args, **named)
        with self.engine.connect() as connection, connection.begin():
            return transaction(connection, *args, **named)

    def _kept_connection(self, name: str, *, aimer2_writes: bool) -> Connection:
        """This thread's own: a file does not go away, and opening anew would double the time of a small transaction."""
        kept: Connection | None = getattr(self._kept, name, None)
        if kept is None:
            kept = self.engine.connect().execution_options(aimer2_writes=aimer2_writes)
            setattr(self._kept, name, kept)
        return kept

    def close(self) -> None:
        self._threads.shutdown()
        self.engine.dispose()


def _configure(connection: sqlite3.Connection, _: Any) -> None:
    # The driver's own transactions begin too late to be of use; `_begin` begins them.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("aimer2_writes") else "BEGIN")


# Statements of the path of a round are built once: building one takes longer than running it.
_NOTE = update(changes).where(changes.c.topic == bindparam("named")).values(number=changes.c.number + 1).returning(changes.c.number)


def note_change(connection: Connection, topic: str) -> int:
    """Tells other processes that something of this topic has changed; the topic's new number."""
    number = connection.execute(_NOTE, {"named": topic}).scalar_one_or_none()
    if number is None:
        connection.execute(insert(changes).values(topic=topic, number=1))
        return 1
    return int(number)


def read_changes(connection: Connection) -> dict[str, int]:
    """The number of every topic."""
    known = {row.topic: row.number for row in connection.execute(select(changes.c.topic, changes.c.number))}
    return {topic: known.get(topic, 0) for topic in TOPICS}
