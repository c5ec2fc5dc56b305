"""Log-ins and tokens of people: a secret that its owner has, a row here that has its hash, so that each can be ended at once."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import final

from aimer2.coordinator.permissions import covers
from aimer2.coordinator.settings import Settings
from aimer2.coordinator.store import accounts
from aimer2.coordinator.store.accounts import Account, Session, SessionKind
from aimer2.coordinator.store.database import Database
from aimer2.core.clock import Clock
from aimer2.core.errors import NotAuthenticated
from aimer2.identity.openid import challenge_of

LOGINS: tuple[SessionKind, ...] = ("browser", "login")
"""What a person logs out of; tokens of scripts are revoked one by one."""
EVERYTHING: tuple[SessionKind, ...] = (*LOGINS, "service")

CODE_SECONDS = 120
"""So long a person may take from the page with the code to the command line."""

_LONGEST_SECRET = 100
_TOUCHED_SECONDS = 30.0
_REFUSED = "The log-in or token was not accepted: it is not ours, has ended, or the account was changed."


@final
class Sessions:
    def __init__(self, database: Database, settings: Settings, clock: Clock) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock

    async def open(self, user: str, kind: SessionKind, *, name: str = "", role: str = "", seconds: float | None = None) -> tuple[str, Session]:
        """A new secret of 256 bit, and its row. ``role`` limits a token; ``seconds`` is its life where the settings do not say. Raises Conflict."""
        settings, now = self._settings, self._clock.now()
        life = seconds or {"browser": settings.session_seconds, "login": settings.user_token_seconds}[kind]
        secret = secrets.token_urlsafe(32)
        session = Session(secrets.token_hex(8), user, kind, name, role, now, now, now + life)
        await self._database.write(accounts.add_session, _hash(secret), session)
        return secret, session

    async def hand_on(self, browser: Session, challenge: str) -> str:
        """A code with which a command line logs in as this person, once, while the browser's session lasts, if it knows what the challenge was
        made of."""
        code, _ = await self.open(browser.user, "code", name=f"{challenge} {browser.id}", seconds=CODE_SECONDS)
        return code

    async def take_on(self, code: str, verifier: str) -> Account:
        """Who has handed on the log-in. The code is used up, whoever shows it. Raises NotAuthenticated."""
        session, account = await self.find(code, "code", touch=False)
        mine = await self._database.write(accounts.end_session, session.id)
        challenge, _, browser = session.name.partition(" ")
        is_in = browser in {one.id for one in await self.of(session.user, "browser")}
        if not mine or not is_in or not hmac.compare_digest(challenge_of(verifier), challenge):
            raise NotAuthenticated(_REFUSED)
        return account

    async def find(self, secret: str, *kinds: SessionKind, touch: bool = True) -> tuple[Session, Account]:
        """Whose it is; the account has the role that holds now. ``touch``: it counts as used.

        Raises NotAuthenticated, always with the same sentence.
        """
        now = self._clock.now()
        found = await self._database.read(accounts.find_session, _hash(secret)) if len(secret) <= _LONGEST_SECRET else None
        if found is None or found[0].kind not in kinds or now >= self.ends(found[0]):
            raise NotAuthenticated(_REFUSED)
        session, account = found
        if session.role:
            if not covers(account.role, session.role):
                raise NotAuthenticated(_REFUSED)
            account = replace(account, role=session.role)
        if touch and now - session.used > _TOUCHED_SECONDS:
            await self._database.write(accounts.touch_session, session.id, now)
        return session, account

    def ends(self, session: Session) -> float:
        """When it ends if it is not used again."""
        idle = session.used + self._settings.session_idle_seconds
        return min(session.expires, idle) if session.kind == "browser" else session.expires

    async def end(self, identifier: str) -> None:
        await self._database.write(accounts.end_session, identifier)

    async def end_secret(self, secret: str) -> None:
        """Ends the browser session of this secret, if it is one: at a new log-in nothing of an older one may live on."""
        found = await self._database.read(accounts.find_session, _hash(secret)) if len(secret) <= _LONGEST_SECRET else None
        if found is not None and found[0].kind == "browser":
            await self.end(found[0].id)

    async def end_all(self, user: str, kinds: Sequence[SessionKind] = LOGINS, but: str = "") -> int:
        """Logs a person out everywhere, except where ``but`` (an id) is, and on what is not a log-in yet; how many there were."""
        return await self._database.write(accounts.end_sessions, user, (*kinds, "code"), but)

    async def of(self, user: str | None, *kinds: SessionKind) -> list[Session]:
        """Those that are open, of one person or (None) of all."""
        found = await self._database.read(accounts.list_sessions, user, kinds, self._clock.now())
        return [session for session in found if self.ends(session) > self._clock.now()]


def csrf_token(secret: str) -> str:
    """What a page of the session with this secret must send with every request that changes something."""
    return hmac.new(secret.encode(), b"aimer2 csrf token", hashlib.sha256).hexdigest()


def is_csrf_token(secret: str, given: str) -> bool:
    return hmac.compare_digest(csrf_token(secret).encode(), given.encode("utf-8", "surrogatepass"))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
