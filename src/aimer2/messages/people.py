"""The bodies of requests about people: log-ins, tokens, accounts, parts in studies."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from aimer2.core.task import Document, SiteId

SessionKind = Literal["browser", "login", "service", "code"]


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


class CodeRequest(Document):
    """``challenge``: SHA-256 of a secret that whoever is to be logged in keeps (PKCE, RFC 7636, method S256)."""

    challenge: str = Field(pattern=r"^[A-Za-z0-9_-]{43}$")


class LoginCode(Document):
    """Good once, for whoever knows the secret."""

    code: str
    expires_in: int


class CodeLogin(Document):
    code: str = Field(max_length=100)
    verifier: str = Field(pattern=r"^[A-Za-z0-9._~-]{43,128}$")


class PasswordChange(Document):
    old: str
    new: str


class TokenRequest(Document):
    """A token for a script, to be made."""

    name: str = Field(min_length=1, max_length=100, description="what it is for")
    role: str | None = Field(default=None, description="what it is limited to; none: all that its account may")
    days: int = Field(default=90, ge=1, le=366)


class MadeToken(Document):
    token: str = Field(description="shown this once")
    status: SessionStatus


class Person(Document):
    """An account."""

    name: str
    role: str
    site: SiteId | None = None
    openid: bool = Field(default=False, description="logs in by the OpenID provider")


class NewPerson(Document):
    name: str = Field(min_length=1, max_length=200)
    role: str
    site: SiteId | None = Field(default=None, description="of a site administrator or data-protection officer")
    password: str | None = Field(default=None, description="none: one is made")


class MadePerson(Document):
    person: Person
    password: str | None = Field(description="where one was made: shown this once")


class RoleChange(Document):
    role: str
    site: SiteId | None = None


class StudyPart(Document):
    """What a person is in a study."""

    user: str
    part: str
    given_by: str = Field(default="", description="empty: who submitted the study has it from the beginning")
    given: float


class PartRequest(Document):
    part: str
