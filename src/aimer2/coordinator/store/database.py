"""The connection to SQLite or PostgreSQL: transactions are functions; those on a server are waited for in threads."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar, final

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

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
        self._kept = threading.local()
        self._failure: type[Exception] = self.engine.dialect.loaded_dbapi.Error
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
        return self._run("BEGIN IMMEDIATE", transaction, *args, **named)

    def read_now(self, transaction: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **named: _P.kwargs) -> _T:
        return self._run("BEGIN", transaction, *args, **named)

    def _run(self, begin: str, transaction: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **named: _P.kwargs) -> _T:
        try:
            if self.is_sqlite:
                return self._run_on_file(begin, transaction, *args, **named)
            with self.engine.begin() as connection:
                return transaction(connection, *args, **named)
        except self._failure as error:
            # What a prepared statement raises: the driver's own.
            raise DBAPIError(None, None, error) from error

    def _run_on_file(self, begin: str, transaction: Callable[Concatenate[Connection, _P], _T], *args: _P.args, **named: _P.kwargs) -> _T:
        """Begins and ends the transaction with the driver's words: SQLAlchemy's take longer than most transactions."""
        connection, driver = self._kept_connection()
        driver.execute(begin)
        try:
            done = transaction(connection, *args, **named)
            # By SQLAlchemy where it has made statements of this transaction, and so counts itself within one.
            if connection.in_transaction():
                connection.commit()
            else:
                driver.execute("COMMIT")
        except BaseException:
            connection.rollback()
            driver.rollback()
            raise
        return done

    def _kept_connection(self) -> tuple[Connection, sqlite3.Connection]:
        """This thread's own: a file does not go away, and opening anew would double the time of a small transaction."""
        kept: tuple[Connection, sqlite3.Connection] | None = getattr(self._kept, "connection", None)
        if kept is None:
            connection = self.engine.connect()
            kept = self._kept.connection = connection, driver_of(connection)
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


def driver_of(connection: Connection) -> Any:
    """The driver's connection under SQLAlchemy's, in the same transaction."""
    return connection.connection.driver_connection


@final
class Prepared:
    """A statement of the path of a round, with ``:names``, in words that both databases know.

    The driver has it as it stands: SQLAlchemy takes ten times as long to hand one over as SQLite to run it.
    """

    def __init__(self, text: str) -> None:
        self._texts = {"sqlite": text, "postgresql": re.sub(r":(\w+)", r"%(\1)s", text)}

    def run(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """The driver's cursor."""
        return driver_of(connection).execute(self._texts[connection.dialect.name], values)

    def run_many(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """How many rows were changed in all."""
        cursor = driver_of(connection).cursor()
        cursor.executemany(self._texts[connection.dialect.name], rows)
        return int(cursor.rowcount)


_NOTE = Prepared("""
    INSERT INTO changes (topic, number) VALUES (:topic, 1) ON CONFLICT (topic) DO UPDATE SET number = changes.number + 1 RETURNING number
""")


def note_change(connection: Connection, topic: str) -> int:
    """Tells other processes that something of this topic has changed; the topic's new number."""
    return int(_NOTE.run(connection, {"topic": topic}).fetchone()[0])


_CHANGES = Prepared("SELECT topic, number FROM changes")


def read_changes(connection: Connection) -> dict[str, int]:
    """The number of every topic."""
    known = dict(_CHANGES.run(connection, {}).fetchall())
    return {topic: known.get(topic, 0) for topic in TOPICS}
