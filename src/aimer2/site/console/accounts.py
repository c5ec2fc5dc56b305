"""People of this hospital who may log in at its console, and their sessions: one SQLite file in the site's folder, `console.sqlite`.

Nobody sets another's password: whoever makes an account hands over a link that is good once, and the person chooses a password there. Of links and
sessions only the SHA-256 is stored.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast, final

from aimer2.audit.entries import Json
from aimer2.audit.kinds import Kind
from aimer2.audit.log import AuditLog
from aimer2.core.clock import Clock
from aimer2.core.errors import BadInput, Conflict, NotAllowed, NotAuthenticated, NotFound, VersionMismatch
from aimer2.core.said import say
from aimer2.identity.passwords import hash_password, needs_rehash, verify_or_burn
from aimer2.site.console.permissions import ROLES, Action, Role, may

LINK_SECONDS: Final = 86_400.0
FAILURES: Final = 5
PAUSE_SECONDS: Final = 60.0
"""After so many failures in a row a log-in is refused for this long, whatever the password; also after a restart."""

_BUSY_SECONDS = 30
_OWNER = "owner of this folder"
_STEPS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE accounts (
            login TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            roles TEXT NOT NULL,
            password TEXT,
            made REAL NOT NULL,
            made_by TEXT NOT NULL)""",
        "CREATE TABLE links (secret TEXT PRIMARY KEY, login TEXT, expires REAL NOT NULL)",
        "CREATE TABLE sessions (secret TEXT PRIMARY KEY, login TEXT NOT NULL, began REAL NOT NULL, seen REAL NOT NULL)",
        "CREATE TABLE failures (login TEXT PRIMARY KEY, count INTEGER NOT NULL, last REAL NOT NULL)",
    ),
    ("ALTER TABLE links ADD COLUMN made_by TEXT NOT NULL DEFAULT 'unknown'",),
    ("ALTER TABLE accounts ADD COLUMN chosen REAL",),
    ("ALTER TABLE accounts DROP COLUMN chosen", "ALTER TABLE accounts ADD COLUMN choice TEXT"),
)
_FIRST: Final[tuple[Role, ...]] = ("administrator", "data-protection-officer")


@final
@dataclass(frozen=True, slots=True)
class Person:
    """``name``: as decisions and the audit log bear it; ``active``: has chosen a password; ``choice``: drawn anew with the account and with each
    password that is chosen or voided. The audit log holds it, so an older copy of this file is known by it whatever the clocks said."""

    login: str
    name: str
    roles: tuple[Role, ...]
    active: bool = True
    choice: str | None = None

    def may(self, action: Action) -> bool:
        return may(self.roles, action)


@final
class Accounts:
    """Several threads and processes (console, commands) may use it at once. Raises VersionMismatch for a file of a newer version."""

    def __init__(self, path: Path, audit: AuditLog, clock: Clock) -> None:
        self._path = path
        self._audit = audit
        self._clock = clock
        # Argon2 takes 64 MiB: one at a time.
        self._one = threading.Lock()
        with self._writing() as database:
            _migrate(database)
        path.chmod(0o600)

    # accounts

    def people(self) -> list[Person]:
        with self._reading() as database:
            return _people(database)

    @contextmanager
    def held(self) -> Iterator[list[Person]]:
        """The people, whom nobody changes meanwhile: what the audit log says last of them is of these rows."""
        with self._writing() as database:
            yield _people(database)

    def add(self, login: str, name: str, roles: Sequence[str], *, by: str) -> str:
        """The secret of the link by which the person chooses a password. Raises BadInput, Conflict where there is one of that login or name."""
        kept = _checked(login, name, roles)
        with self._writing() as database:
            _insert(database, kept, by, self._clock.now())
            # Somebody is here now: what makes the first account is void.
            database.execute("DELETE FROM links WHERE login IS NULL")
            secret = self._link(database, login, by)
            self._audit.append(Kind.USER_ADDED, actor=by, details=_added(kept))
        return secret

    def link(self, login: str, *, by: str) -> str:
        """A new link for somebody who has lost the password or the first link; until it is used the old password stays. Raises NotFound."""
        with self._writing() as database:
            self._named(database, login)
            secret = self._link(database, login, by)
            self._audit.append(Kind.USER_LINKED, actor=by, details={"login": login})
        return secret

    def first_link(self) -> str | None:
        """Where there is no account yet: a link to make the first one. Whoever reads it from the terminal owns this folder."""
        with self._writing() as database:
            if database.execute("SELECT 1 FROM accounts LIMIT 1").fetchone():
                return None
            database.execute("DELETE FROM links")
            return self._link(database, None, _OWNER)

    def remove(self, login: str, *, by: str) -> None:
        """Ends the person's sessions, too. Raises NotFound."""
        with self._writing() as database:
            self._named(database, login)
            for table in ("accounts", "links", "sessions"):
                database.execute(f"DELETE FROM {table} WHERE login = ?", (login,))
            self._audit.append(Kind.USER_REMOVED, actor=by, details={"login": login})

    # the link

    def invited(self, secret: str) -> Person | None:
        """Whom a link is for; None: the first person, who has no account yet. Raises NotFound for a link that is not, or no longer, good."""
        with self._reading() as database:
            login, _ = self._linked(database, secret)
            return None if login is None else self._named(database, login)

    def accept(self, secret: str, password: str, *, login: str = "", name: str = "") -> Person:
        """Uses the link up: sets the password, ends every session of the person. ``login``, ``name``: of the first person.

        Raises NotFound, BadInput, Conflict.
        """
        hashed, choice = hash_password(password), _draw()
        with self._writing() as database:
            linked, made_by = self._linked(database, secret)
            if linked is None:
                first = _checked(login, name, _FIRST)
                _insert(database, first, name, self._clock.now())
                self._audit.append(Kind.USER_ADDED, actor=first.name, details=_added(first))
            person = self._named(database, linked or login)
            database.execute("UPDATE accounts SET password = ?, choice = ? WHERE login = ?", (hashed, choice, person.login))
            database.execute("DELETE FROM links WHERE login IS ? OR secret = ?", (linked, _digest(secret)))
            database.execute("DELETE FROM sessions WHERE login = ?", (person.login,))
            # Whoever made the link could have used it: the log says who that was.
            details: Mapping[str, Json] = {"login": person.login, "link_made_by": made_by, "choice": choice}
            self._audit.append(Kind.PASSWORD_CHANGED, actor=person.name, details=details)
        return person

    def void(self, login: str, *, by: str) -> None:
        """Neither password nor link nor session is good any more: a new link is needed. Raises NotFound."""
        choice = _draw()
        with self._writing() as database:
            self._named(database, login)
            database.execute("UPDATE accounts SET password = NULL, choice = ? WHERE login = ?", (choice, login))
            for table in ("links", "sessions"):
                database.execute(f"DELETE FROM {table} WHERE login = ?", (login,))
            self._audit.append(Kind.PASSWORD_VOIDED, actor=by, details={"login": login, "choice": choice})

    # sessions

    def log_in(self, login: str, password: str) -> str:
        """The secret of a new session. Raises NotAuthenticated, always with the same sentence; NotAllowed after too many failures."""
        login = login.strip()[:_LONGEST_LOGIN]
        with self._one:
            with self._reading() as database:
                self._check_failures(database, login)
                row = database.execute("SELECT * FROM accounts WHERE login = ?", (login,)).fetchone()
            stored = None if row is None else row["password"]
            if not verify_or_burn(stored, password) or stored is None:
                self._note_failure(login)
                # Who does not exist is not named: a password is typed into the wrong field every day.
                self._audit.append(Kind.LOGIN_FAILED, actor=row["name"] if row else "unknown")
                raise NotAuthenticated("The name or the password is wrong.", remedy="Try again, or ask your administrator for a new link.")
        secret = secrets.token_urlsafe(32)
        now = self._clock.now()
        with self._writing() as database:
            if needs_rehash(stored):
                database.execute("UPDATE accounts SET password = ? WHERE login = ?", (hash_password(password), login))
            database.execute("DELETE FROM failures WHERE login = ?", (_digest(login),))
            database.execute("INSERT INTO sessions VALUES (?, ?, ?, ?)", (_digest(secret), login, now, now))
        self._audit.append(Kind.LOGIN_SUCCEEDED, actor=row["name"])
        return secret

    def session(self, secret: str, *, idle: float, longest: float) -> Person | None:
        """Whose it is, unless it was silent for ``idle`` seconds or is ``longest`` seconds old; from now on it was not silent."""
        now, key = self._clock.now(), _digest(secret)
        with self._writing() as database:
            database.execute("DELETE FROM sessions WHERE seen < ? OR began < ?", (now - idle, now - longest))
            database.execute("UPDATE sessions SET seen = ? WHERE secret = ?", (now, key))
            row = database.execute("SELECT * FROM sessions JOIN accounts USING (login) WHERE secret = ?", (key,)).fetchone()
        return None if row is None else _person(row)

    def log_out(self, secret: str) -> None:
        with self._writing() as database:
            database.execute("DELETE FROM sessions WHERE secret = ?", (_digest(secret),))

    # means

    def _check_failures(self, database: sqlite3.Connection, login: str) -> None:
        row = database.execute("SELECT * FROM failures WHERE login = ?", (_digest(login),)).fetchone()
        if row is not None and row["count"] >= FAILURES and self._clock.now() - row["last"] < PAUSE_SECONDS:
            raise NotAllowed(
                "Too many failed log-ins.", remedy=say("Wait {pause_seconds} seconds, then try again.", pause_seconds=f"{PAUSE_SECONDS:.0f}")
            )

    def _note_failure(self, login: str) -> None:
        now = self._clock.now()
        with self._writing() as database:
            database.execute("DELETE FROM failures WHERE last < ?", (now - PAUSE_SECONDS,))
            again = "ON CONFLICT (login) DO UPDATE SET count = count + 1, last = excluded.last"
            database.execute(f"INSERT INTO failures VALUES (?, 1, ?) {again}", (_digest(login), now))

    def _link(self, database: sqlite3.Connection, login: str | None, by: str) -> str:
        secret = secrets.token_urlsafe(32)
        database.execute("DELETE FROM links WHERE login IS ?", (login,))
        database.execute("INSERT INTO links VALUES (?, ?, ?, ?)", (_digest(secret), login, self._clock.now() + LINK_SECONDS, by))
        return secret

    def _linked(self, database: sqlite3.Connection, secret: str) -> tuple[str | None, str]:
        """For whom, and who made it. Raises NotFound."""
        row = database.execute("SELECT login, made_by FROM links WHERE secret = ? AND expires > ?", (_digest(secret), self._clock.now())).fetchone()
        if row is None:
            raise NotFound("This link was used, is too old, or never was one.", remedy="Ask for a new one: `aimer2 site user link LOGIN`.")
        return None if row["login"] is None else str(row["login"]), str(row["made_by"])

    def _named(self, database: sqlite3.Connection, login: str) -> Person:
        row = database.execute("SELECT * FROM accounts WHERE login = ?", (login,)).fetchone()
        if row is None:
            raise NotFound(say("There is no account '{login}'.", login=login), remedy="`aimer2 site user list` lists them.")
        return _person(row)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
        database.row_factory = sqlite3.Row
        try:
            yield database
        finally:
            database.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, undone when an error leaves it; what is said in the audit log within it is on the disk before it counts."""
        with self._reading() as database:
            database.execute("BEGIN IMMEDIATE")
            with database:
                yield database


_LONGEST_LOGIN = 64
_LOGIN = re.compile(rf"[a-z0-9][a-z0-9._-]{{1,{_LONGEST_LOGIN - 1}}}")
_LONGEST_NAME = 120


def _checked(login: str, name: str, roles: Sequence[str]) -> Person:
    if not _LOGIN.fullmatch(login):
        raise BadInput(say("A login has 2 to {longest_login} small letters, digits, dots, dashes or underscores.", longest_login=_LONGEST_LOGIN))
    name = " ".join(name.split())
    if not 2 <= len(name) <= _LONGEST_NAME or not name.isprintable():
        raise BadInput("An account bears the person's name, as decisions are to bear it.", remedy="Give the full name.")
    if not roles or not set(roles) <= set(ROLES):
        raise BadInput(say("An account has one or more of the roles {roles}.", roles=", ".join(ROLES)))
    return Person(login, name, tuple(role for role in ROLES if role in roles), active=False, choice=_draw())


def _draw() -> str:
    return secrets.token_hex(8)


def _added(person: Person) -> Mapping[str, Json]:
    return {"login": person.login, "name": person.name, "roles": list(person.roles), "choice": person.choice}


def _insert(database: sqlite3.Connection, person: Person, by: str, now: float) -> None:
    taken = database.execute("SELECT login FROM accounts WHERE login = ? OR name = ?", (person.login, person.name)).fetchone()
    if taken is not None:
        raise Conflict(say("There is an account '{taken}' of this login or name.", taken=taken["login"]), remedy="One person has one account.")
    row = (person.login, person.name, " ".join(person.roles), now, by, person.choice)
    database.execute("INSERT INTO accounts (login, name, roles, made, made_by, choice) VALUES (?, ?, ?, ?, ?, ?)", row)


def _people(database: sqlite3.Connection) -> list[Person]:
    return [_person(row) for row in database.execute("SELECT * FROM accounts ORDER BY login")]


def _person(row: sqlite3.Row) -> Person:
    roles = tuple(cast(Role, role) for role in str(row["roles"]).split())
    return Person(str(row["login"]), str(row["name"]), roles, row["password"] is not None, row["choice"])


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _migrate(database: sqlite3.Connection) -> None:
    version = int(database.execute("PRAGMA user_version").fetchone()[0])
    if version > len(_STEPS):
        raise VersionMismatch("The console's accounts were written by a newer version of AIMER2.", remedy="Use that version again, or a backup.")
    for step in _STEPS[version:]:
        for statement in step:
            database.execute(statement)
    database.execute(f"PRAGMA user_version = {len(_STEPS)}")
