"""Transactions on people: accounts, their log-ins and tokens, failed attempts, and their parts in studies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, final

from sqlalchemy import Connection, Row, delete, insert, select, update

from aimer2.coordinator.store.database import Prepared, note_change
from aimer2.coordinator.store.schema import drafts, login_attempts, sessions, sites, studies, study_parts, uploads, users
from aimer2.core.errors import BadInput, Conflict, NotFound
from aimer2.core.said import say

SessionKind: TypeAlias = Literal["browser", "login", "service", "code"]
"""browser: a cookie. login: a bearer token for a command line. service: a token for a script. code: not yet a log-in, its name is the challenge."""

_OWN_NAMES = frozenset({"agent", "aimer2", "coordinator", "openid"})
"""What this program calls itself in its records."""


@final
@dataclass(frozen=True, slots=True)
class Account:
    """``site``: the hospital of a site administrator or data-protection officer. ``password``: its hash, empty where there is none."""

    name: str
    role: str
    site: str | None = None
    password: str = ""
    issuer: str | None = None
    subject: str | None = None


def add_account(connection: Connection, account: Account, now: float) -> None:
    """Raises Conflict where the name is taken or was, BadInput for one that would not be the same in an address or on a line."""
    if not account.name.isprintable() or account.name != account.name.strip() or "/" in account.name or not 0 < len(account.name) <= 200:
        raise BadInput("A user's name has 1 to 200 printable characters, no '/', and no blanks around it.")
    if connection.execute(select(users.c.name).where(users.c.name == account.name)).one_or_none():
        raise Conflict(say("There is a user {name} already.", name=account.name))
    if _was_here(connection, account.name):
        # What is stored under a name is its owner's: whoever takes the name would own it.
        raise Conflict(
            say("The name {name} is a site's or the coordinator's own, or somebody had it before.", name=account.name), remedy="Take another name."
        )
    values = {name: getattr(account, name) for name in Account.__slots__}
    connection.execute(insert(users).values(added=now, **values))
    note_change(connection, "registry")


def _was_here(connection: Connection, name: str) -> bool:
    """Whether studies, drafts or uploads are stored under it, or it means a site or this program."""
    owned = (
        select(studies.c.digest).where(studies.c.submitted_by == name),
        select(drafts.c.id).where(drafts.c.owner == name),
        select(uploads.c.sha256).where(uploads.c.owner == f"user:{name}"),
        select(sites.c.site).where(sites.c.site == name),
    )
    return name in _OWN_NAMES or any(connection.execute(each.limit(1)).first() is not None for each in owned)


def remove_account(connection: Connection, name: str) -> None:
    """With its log-ins, tokens, drafts and parts in studies. Raises NotFound where there is no such user."""
    if connection.execute(delete(users).where(users.c.name == name)).rowcount != 1:
        raise _no_user(name)
    connection.execute(delete(sessions).where(sessions.c.user == name))
    connection.execute(delete(study_parts).where(study_parts.c.user == name))
    connection.execute(delete(drafts).where(drafts.c.owner == name))
    note_change(connection, "registry")


def change_role(connection: Connection, name: str, role: str, site: str | None) -> None:
    """Raises NotFound."""
    if connection.execute(update(users).where(users.c.name == name).values(role=role, site=site)).rowcount != 1:
        raise _no_user(name)
    note_change(connection, "registry")


def find_account(connection: Connection, name: str) -> Account | None:
    found = connection.execute(select(users).where(users.c.name == name)).one_or_none()
    return None if found is None else _account(found)


def find_subject(connection: Connection, issuer: str, subject: str) -> Account | None:
    """The account of the person whom this OpenID provider knows by ``subject``."""
    found = connection.execute(select(users).where(users.c.issuer == issuer, users.c.subject == subject)).one_or_none()
    return None if found is None else _account(found)


def set_password(connection: Connection, name: str, password: str) -> None:
    connection.execute(update(users).where(users.c.name == name).values(password=password))


def read_accounts(connection: Connection) -> dict[str, Account]:
    return {row.name: _account(row) for row in connection.execute(select(users).order_by(users.c.name))}


def _account(row: Row[Any]) -> Account:
    return Account(row.name, row.role, row.site, row.password, row.issuer, row.subject)


def _no_user(name: str) -> NotFound:
    return NotFound(say("There is no user {name}.", name=name), remedy="`aimer2 coordinator user list` lists them.")


# -- log-ins and tokens


@final
@dataclass(frozen=True, slots=True)
class Session:
    """A log-in or a token. ``id`` names it to people; ``role``: what a token is limited to, empty: all that its account may."""

    id: str
    user: str
    kind: SessionKind
    name: str
    role: str
    made: float
    used: float
    expires: float


def add_session(connection: Connection, secret_hash: str, session: Session) -> None:
    """Forgets what has expired besides. Raises NotFound for an account that has gone, Conflict for a token's name that is taken."""
    connection.execute(delete(sessions).where(sessions.c.expires < session.made))
    if connection.execute(select(users.c.name).where(users.c.name == session.user)).one_or_none() is None:
        raise _no_user(session.user)
    taken = select(sessions.c.id).where(sessions.c.user == session.user, sessions.c.kind == "service", sessions.c.name == session.name)
    if session.kind == "service" and connection.execute(taken).first() is not None:
        raise Conflict(say("You have a token named {name} already.", name=session.name), remedy="Revoke it, or give the new one another name.")
    connection.execute(insert(sessions).values(secret_hash=secret_hash, **{name: getattr(session, name) for name in Session.__slots__}))


# Whoever watches a study asks it once in each round.
_FIND_SESSION = Prepared("""
    SELECT here.id, here."user", here.kind, here.name, here.role, here.made, here.used, here.expires,
        owner.name, owner.role, owner.site, owner.password, owner.issuer, owner.subject
    FROM sessions AS here JOIN users AS owner ON owner.name = here."user" WHERE here.secret_hash = :secret_hash
""")


def find_session(connection: Connection, secret_hash: str) -> tuple[Session, Account] | None:
    """With its account as it is now."""
    row = _FIND_SESSION.run(connection, {"secret_hash": secret_hash}).fetchone()
    return None if row is None else (Session(*row[:8]), Account(*row[8:]))


def touch_session(connection: Connection, identifier: str, now: float) -> None:
    connection.execute(update(sessions).where(sessions.c.id == identifier).values(used=now))


def list_sessions(connection: Connection, user: str | None, kinds: Sequence[SessionKind], now: float) -> list[Session]:
    """Of one person, or (None) of all; the oldest first."""
    wanted = select(sessions).where(sessions.c.kind.in_(kinds), sessions.c.expires > now).order_by(sessions.c.made)
    return [_session(row) for row in connection.execute(wanted if user is None else wanted.where(sessions.c.user == user))]


def end_session(connection: Connection, identifier: str) -> bool:
    return connection.execute(delete(sessions).where(sessions.c.id == identifier)).rowcount == 1


def end_sessions(connection: Connection, user: str, kinds: Sequence[SessionKind], but: str = "") -> int:
    """Every one of this person's of these kinds, except ``but``; how many there were."""
    return connection.execute(delete(sessions).where(sessions.c.user == user, sessions.c.kind.in_(kinds), sessions.c.id != but)).rowcount


def _session(row: Row[Any]) -> Session:
    return Session(row.id, row.user, row.kind, row.name, row.role, row.made, row.used, row.expires)


# -- failed log-ins


@final
@dataclass(frozen=True, slots=True)
class Attempts:
    """Failures in a row under one key (a hash of an account, an address or both), the last one's time, and the last success's."""

    failures: int = 0
    last: float = 0.0
    succeeded: float | None = None


_FORGOTTEN_SECONDS = 86400.0
_KNOWN_SECONDS = 90 * 86400.0


def read_attempts(connection: Connection, keys: Sequence[str], now: float) -> dict[str, Attempts]:
    """By key; what lies long back does not count any more."""
    rows = connection.execute(select(login_attempts).where(login_attempts.c.key.in_(keys)))
    known = {row.key: _attempts(row, now) for row in rows}
    return {key: known.get(key, Attempts()) for key in keys}


def note_failures(connection: Connection, keys: Sequence[str], now: float) -> None:
    """One failure more under each key."""
    known = read_attempts(connection, keys, now)
    stale = (login_attempts.c.last < now - _FORGOTTEN_SECONDS) & (
        login_attempts.c.succeeded.is_(None) | (login_attempts.c.succeeded < now - _KNOWN_SECONDS)
    )
    connection.execute(delete(login_attempts).where(login_attempts.c.key.in_(keys) | stale))
    rows = [{"key": key, "failures": old.failures + 1, "last": now, "succeeded": old.succeeded} for key, old in known.items()]
    connection.execute(insert(login_attempts), rows)


def note_success(connection: Connection, pair: str, others: Sequence[str], now: float) -> None:
    """Forgets the failures of this account at this address, and takes back what the attempt itself had counted under the ``others``."""
    connection.execute(delete(login_attempts).where(login_attempts.c.key == pair))
    connection.execute(insert(login_attempts).values(key=pair, failures=0, last=now, succeeded=now))
    counted = update(login_attempts).where(login_attempts.c.key.in_(others), login_attempts.c.failures > 0)
    connection.execute(counted.values(failures=login_attempts.c.failures - 1))


def attempt_key(*parts: str) -> str:
    """A hash: what people type into the name's field by mistake is not kept."""
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _attempts(row: Row[Any], now: float) -> Attempts:
    failures = row.failures if row.last > now - _FORGOTTEN_SECONDS else 0
    succeeded = row.succeeded if row.succeeded is not None and row.succeeded > now - _KNOWN_SECONDS else None
    return Attempts(failures, row.last, succeeded)


# -- parts in studies


def read_parts(connection: Connection) -> dict[str, dict[str, str]]:
    """By study: what each person is in it, besides the one who submitted it."""
    found: dict[str, dict[str, str]] = {}
    for row in connection.execute(select(study_parts).order_by(study_parts.c.user)):
        found.setdefault(row.study, {})[row.user] = row.part
    return found


def read_parts_of(connection: Connection, study: str) -> list[Row[Any]]:
    return list(connection.execute(select(study_parts).where(study_parts.c.study == study).order_by(study_parts.c.user)))


def give_part(connection: Connection, study: str, user: str, part: str, by: Mapping[str, Any]) -> None:
    """Raises NotFound where there is no such user."""
    if find_account(connection, user) is None:
        raise _no_user(user)
    take_part(connection, study, user)
    connection.execute(insert(study_parts).values(study=study, user=user, part=part, **by))
    note_change(connection, "registry")


def take_part(connection: Connection, study: str, user: str) -> bool:
    taken = connection.execute(delete(study_parts).where(study_parts.c.study == study, study_parts.c.user == user)).rowcount == 1
    note_change(connection, "registry")
    return taken
