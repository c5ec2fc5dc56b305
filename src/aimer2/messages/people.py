"""The bodies of requests about people: log-ins, tokens, accounts, parts in studies."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aimer2.core.task import Document, SiteId

SessionKind = Literal["browser", "login", "service"]


class Me(Document):
    """Who asks."""

    user: str
    role: str
    site: SiteId | None = Field(default=None, description="the hospital of a site administrator or data-protection officer")
    kind: SessionKind = Field(description="browser: a cookie; login: a command line; service: a token for a script")
    expires: float = Field(description="seconds since 1970: the end in any case")
    ends: float = Field(description="the end if this is the last request")
    actions: tuple[str, ...] = Field(description="what the role may do at all; within one study less")
    csrf: str = Field(default="", description="goes with every change that a browser asks for, as header X-CSRF-Token")


class SessionStatus(Document):
    """A log-in, or a token for a script; never its secret."""

    id: str
    user: str
    kind: SessionKind
    name: str = Field(default="", description="of a script's token")
    role: str = Field(default="", description="what a token is limited to; empty: all that its account may")
    made: float
    used: float
    expires: float
    current: bool = Field(default=False, description="this request has come with it")


class PasswordChange(Document):
    old: str
    new: str
