"""Log-ins that are kept between commands, in one file that only its owner can read."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import final

from aimer2.client.coordinator import Coordinator
from aimer2.core.clock import Clock
from aimer2.core.errors import BadInput, NotAuthenticated, NotFound
from aimer2.identity.secret_files import read_secret

_FILE = "logins.json"


def home() -> Path:
    """AIMER2_HOME, or `~/.config/aimer2`."""
    named = os.environ.get("AIMER2_HOME")
    return Path(named) if named else Path.home() / ".config" / "aimer2"


@final
@dataclass(frozen=True, slots=True)
class SavedLogin:
    """Who is logged in where, until when (seconds since 1970); ``key`` is the coordinator's, as seen at the first log-in."""

    url: str
    user: str
    token: str = field(repr=False)
    expires: float
    key: str
    fingerprint: str | None = None
    ca_file: str | None = None

    def open(self, clock: Clock) -> Coordinator:
        """The coordinator, to ask as this person. Raises NotAuthenticated where the log-in has expired."""
        if clock.now() >= self.expires:
            raise NotAuthenticated(f"Your log-in at {self.url} has expired.", remedy=f"Run `aimer2 login {self.url} --user {self.user}`.")
        authorities = None if self.ca_file is None else Path(self.ca_file)
        return Coordinator(self.url, token=self.token, fingerprint=self.fingerprint, ca_file=authorities, key=self.key)


@final
@dataclass(frozen=True, slots=True)
class Logins:
    """The saved log-ins of a person on this machine, one per coordinator."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / _FILE

    def all(self) -> dict[str, SavedLogin]:
        """By address. Raises NotAllowed where others can read the file, BadInput where it is damaged."""
        try:
            entries = json.loads(read_secret(self.file))
            return {entry["url"]: SavedLogin(**entry) for entry in entries}
        except NotFound:
            return {}
        except (ValueError, TypeError, KeyError):
            raise BadInput(f"{self.file} is damaged.", remedy="Delete it and log in again.") from None

    def find(self, url: str | None = None) -> SavedLogin:
        """The log-in at this coordinator, or the only one there is. Raises NotAuthenticated, BadInput where there are several."""
        known = self.all()
        if url is not None:
            found = known.get(url.rstrip("/"))
            if found is None:
                raise NotAuthenticated(f"You are not logged in at {url}.", remedy=f"Run `aimer2 login {url} --user NAME`.")
            return found
        if not known:
            raise NotAuthenticated("You are not logged in anywhere.", remedy="Run `aimer2 login https://… --user NAME`.")
        if len(known) > 1:
            raise BadInput(f"You are logged in at several coordinators: {', '.join(known)}", remedy="Choose one with --coordinator URL.")
        return next(iter(known.values()))

    def save(self, login: SavedLogin) -> None:
        self._write({**self.all(), login.url: login})

    def forget(self, url: str) -> None:
        """Raises NotAuthenticated."""
        login = self.find(url)
        self._write({name: kept for name, kept in self.all().items() if name != login.url})

    def _write(self, logins: dict[str, SavedLogin]) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self.folder / f".{_FILE}.{secrets.token_hex(8)}"
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                json.dump([asdict(login) for login in logins.values()], file, indent=1)
            os.replace(draft, self.file)
        finally:
            draft.unlink(missing_ok=True)


def connect(url: str | None, clock: Clock) -> Coordinator:
    """The coordinator where a person is logged in; ``url`` chooses among several.

    A script on another machine gives AIMER2_TOKEN, and AIMER2_FINGERPRINT where the certificate is of no authority; then nothing is read
    from the folder. Raises NotAuthenticated where there is none or it has expired, BadInput where there are several.
    """
    token = os.environ.get("AIMER2_TOKEN")
    if token and url:
        return Coordinator(url, token=token, fingerprint=os.environ.get("AIMER2_FINGERPRINT"))
    return Logins(home()).find(url).open(clock)
