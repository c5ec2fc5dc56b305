"""Everything that the console's pages work with: the site's folder through the same functions as the commands, its people, work under way."""

from __future__ import annotations

import secrets
from pathlib import Path
from threading import Lock
from typing import TypeAlias, final

from starlette.requests import Request
from starlette.responses import Response

from aimer2.core.clock import Clock
from aimer2.core.said import mark
from aimer2.site.agent import protections
from aimer2.site.console.accounts import Accounts, Person
from aimer2.site.console.work import Work
from aimer2.site.decisions import Decisions, open_decisions
from aimer2.site.folder import SiteFolder
from aimer2.site.ledger import Ledgers
from aimer2.site.restored import require_whole
from aimer2.site.sandbox import capabilities
from aimer2.site.settings import ConsoleSettings, Protection, Settings, read_settings
from aimer2.web.answers import Answers
from aimer2.web.pages import Link, Pages
from aimer2.web.security import FormKey

HERE = Path(__file__).parent
NAVIGATION = (
    Link(mark("Requests"), "/"),
    Link(mark("Data sets"), "/datasets"),
    Link(mark("Budgets"), "/budgets"),
    Link(mark("Reports"), "/reports"),
    Link(mark("Models"), "/models"),
    Link(mark("Keys"), "/keys"),
    Link(mark("Policy"), "/policy"),
    Link(mark("Audit log"), "/audit"),
    Link(mark("Machine"), "/machine"),
    Link(mark("People"), "/people"),
)
_COOKIE = "aimer2-site"
_Files: TypeAlias = tuple[int, int]
"""When the key was written, and which file the state is."""


@final
class Console:
    def __init__(self, folder: SiteFolder, clock: Clock) -> None:
        """Raises NotFound, BadInput where the settings have faults, Conflict where the folder was put back from a backup."""
        self.folder = folder
        self.clock = clock
        self._lock = Lock()
        self._open: tuple[_Files, Decisions, Ledgers] | None = None
        self._whole: tuple[_Files, list[Person]] | None = None
        self.place: ConsoleSettings = self.settings.console
        self.accounts = Accounts(folder.console, self.decisions.audit, clock)
        self.check_whole()
        self.work = Work(clock)
        self.answers = Answers(Pages(HERE, product=f"AIMER2 · {self.settings.site}", navigation=NAVIGATION), secure=self.place.tls)
        # Of this process: after a restart an open form is asked for again.
        self.forms = FormKey(secrets.token_bytes(32))
        self.enforced: frozenset[Protection] = protections(capabilities())

    @property
    def settings(self) -> Settings:
        """As they are now; but for where the console listens."""
        return read_settings(self.folder.settings)

    @property
    def decisions(self) -> Decisions:
        return self._opened()[0]

    @property
    def ledgers(self) -> Ledgers:
        """Kept open: each is read, and every signature of it checked, once."""
        return self._opened()[1]

    def check_whole(self) -> None:
        """Looks again where the state was replaced or the accounts are others. Raises Conflict where they are older than the audit log."""
        found = self._files(), self.accounts.people()
        if found != self._whole:
            require_whole(self.decisions)
            self._whole = found

    def _opened(self) -> tuple[Decisions, Ledgers]:
        """Anew where the site's key or state was replaced."""
        with self._lock:
            if self._open is None or self._open[0] != self._files():
                decisions = open_decisions(self.folder, self.clock)
                self._open = (self._files(), decisions, Ledgers(self.folder, decisions.key, decisions.audit, self.clock))
            return self._open[1:]

    def _files(self) -> _Files:
        state = self.folder.state
        return self.folder.key.stat().st_mtime_ns, state.stat().st_ino if state.is_file() else 0

    # who asks

    @property
    def cookie(self) -> str:
        return f"__Host-{_COOKIE}" if self.place.tls else _COOKIE

    def session_of(self, request: Request) -> str:
        return request.cookies.get(self.cookie, "")

    def who(self, request: Request) -> Person | None:
        """The person who is logged in."""
        secret = self.session_of(request)
        idle, longest = self.place.idle_minutes * 60, self.place.session_hours * 3600
        return self.accounts.session(secret, idle=idle, longest=longest) if secret else None

    def keep_session(self, answer: Response, secret: str) -> Response:
        """The browser forgets it when it is closed; it is sent to no other site."""
        answer.set_cookie(self.cookie, secret, secure=self.place.tls, httponly=True, samesite="strict")
        return answer

    def end_session(self, answer: Response) -> Response:
        answer.delete_cookie(self.cookie, secure=self.place.tls, httponly=True, samesite="strict")
        return answer
