"""The bodies of the coordinator's HTTP API, version 1. `docs/wire-protocol.md` tells the story; the OpenAPI document shows the forms.

Small blobs ride along as attachments, so a round of a small model is one request per site; larger ones are fetched and put by name.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field

from aimer2.core.errors import AimerError, BadStudy, Fault, Tampered, catalogue
from aimer2.core.task import Digest, Document, Reply, SiteId, Telling

ATTACHED_BYTES = 64 * 1024
"""Blobs up to this size travel inside the exchange."""

BACKGROUND = "aimer2.background"
"""In the scope of a request that a page makes by itself within the process: it does not keep the session from ending. No client can set it."""

StudyState = Literal["offered", "running", "paused", "finished", "stopped"]
"""offered: waits for approvals. paused: stopped for now, or too few sites; `resume` goes on. finished: has a result. stopped: for good."""


class EnrolmentRequest(Document):
    code: str = Field(description="the invitation's one-time code")
    site: SiteId
    key: str = Field(description="the site's Ed25519 public key, base64url; its private half never leaves the site")
    version: str


class Enrolled(Document):
    site: SiteId
    coordinator_key: str = Field(description="every task is signed with it")
    name: str


class Token(Document):
    """RFC 6749 section 5.1."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"
    expires_in: int


class Exchange(Document):
    """A site hands in what is done and waits for what is to do; answered the moment there is something."""

    replies: tuple[Reply, ...] = ()
    attachments: Mapping[Digest, str] = Field(default_factory=dict, description="small blobs of the replies, base64")
    holding: tuple[str, ...] = Field(default=(), description="tasks already here, as 'id/attempt'")
    revision: int = Field(default=0, description="the last revision of this site's list of studies that it has seen")
    wait_seconds: float = Field(default=50, ge=0, le=300)
    status: Mapping[str, Any] = Field(default_factory=dict, description="version, capabilities, free disk: shown to researchers")


class StudyNotice(Document):
    """A study that concerns a site."""

    digest: Digest
    state: StudyState


class Exchanged(Document):
    tasks: tuple[str, ...] = Field(default=(), description="tasks, each signed by the coordinator (JWS)")
    withdrawn: tuple[str, ...] = Field(default=(), description="held tasks that nobody waits for, as 'id/attempt'")
    attachments: Mapping[Digest, str] = Field(default_factory=dict)
    revision: int
    studies: tuple[StudyNotice, ...] = Field(default=(), description="the whole list, where the revision is newer than the site's")
    frozen: str = Field(default="", description="likewise: who has stopped everything here and why; empty: nobody")
    time: float


class Decision(Document):
    """What a site has decided about a study; made and signed there."""

    study: Digest
    site: SiteId
    decision: Literal["approve", "refuse", "withdraw"]
    by: str = Field(min_length=2, max_length=200, description="the named person, or the policy rule that a named person has set")
    dataset: str
    until: float | None = Field(default=None, description="seconds since 1970; none: until the study expires")
    reason: str = Field(default="", max_length=2000)
    time: float
    roster: Digest | None = Field(default=None, description="the roster whose every key is verified at the site: with secure aggregation")


class SignedDecision(Document):
    statement: str = Field(description="a Decision as JWS, signed by the site")


class KeyRotation(Document):
    statement: str = Field(description="{site, key, time} as JWS, signed by the old key; proof: the same signed by the new one")
    proof: str


class VerifiedKeys(Document):
    """The keys of sites that people at one site have verified themselves, its own among them; a file from site to site, as JWS."""

    format: Literal[1] = 1
    site: SiteId
    by: str = Field(min_length=2, description="the named person who signs")
    keys: Mapping[SiteId, str]
    time: float


class FreezeState(Document):
    """Whether everything at the coordinator is stopped."""

    frozen: bool = False
    by: str = ""
    reason: str = ""
    since: float | None = None


class Incident(Document):
    """Why everything is stopped, or goes on."""

    reason: str = Field(min_length=3, max_length=500)


class AuditHead(Document):
    """How far an audit log goes, signed by its holder (`aimer2.audit.heads`)."""

    log: str = Field(min_length=1, max_length=200)
    key: str = Field(description="the holder's public key, base64url")
    sequence: int = Field(ge=1)
    digest: Digest = Field(description="SHA-256 of that entry's line")
    time: str
    signature: str = Field(max_length=128)


class Login(Document):
    user: str
    password: str


class SiteDecision(Document):
    """What one site said about a study."""

    site: SiteId
    decision: Literal["waiting", "approve", "refuse", "withdraw"]
    by: str = ""
    reason: str = ""
    statement: str | None = None


class StudySummary(Telling):
    digest: Digest
    name: str
    question: str
    state: StudyState
    reason: str = ""
    submitted_by: str
    submitted: float
    round_number: int = 0
    rounds: int
    sites: tuple[SiteDecision, ...] = ()
    result: Digest | None = None
    ethics: str = ""
    expires: float = Field(default=0, description="seconds since 1970; nothing of it runs afterwards")
    version: int = Field(default=1, description="counts from 1; a change after the submission is a new version")
    supersedes: Digest | None = Field(default=None, description="the version before")
    superseded_by: Digest | None = Field(default=None, description="the version after")
    archived: bool = Field(default=False, description="it has ended, and is left out of lists")


class SiteStatus(Document):
    site: SiteId
    key: str
    enrolled: float
    last_contact: float | None
    online: bool
    revoked: bool
    status: Mapping[str, Any] = Field(default_factory=dict)


class CoordinatorInfo(Document):
    name: str
    key: str
    version: str
    time: float


class FaultDocument(Telling):
    model_config = ConfigDict(extra="ignore")  # a newer version says more: its code and sentence are to be heard none the less

    place: str
    problem: str
    remedy: str


class Problem(Telling):
    """RFC 9457, section 3.2: whoever reads it passes over members that it does not know."""

    model_config = ConfigDict(extra="ignore")

    type: str
    title: str
    status: int
    detail: str
    code: str
    remedy: str
    faults: tuple[FaultDocument, ...] = ()


def problem_of(error: AimerError) -> Problem:
    faults: Iterable[Fault] = getattr(error, "faults", ())
    return Problem(
        type=f"urn:aimer2:error:{error.code}",
        title=type(error).title(),
        status=error.status,
        detail=error.sentence,
        code=error.code,
        remedy=error.advice,
        faults=tuple(FaultDocument(place=f.place, problem=f.problem, remedy=f.remedy) for f in faults),
    )


def error_of(problem: Problem) -> AimerError:
    """The same error on the other side of the wire."""
    kind = catalogue().get(problem.code, AimerError)
    if issubclass(kind, BadStudy):
        return kind([Fault(f.place, f.problem, f.remedy) for f in problem.faults])
    return kind(problem.detail, remedy=problem.remedy)


def attach(data: bytes | memoryview) -> str:
    return base64.b64encode(data).decode()


def detach(sha256: Digest, text: str) -> bytes:
    """Raises Tampered where the bytes do not have this name."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:  # binascii.Error is one
        raise Tampered("An attachment is not base64.") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Tampered("An attachment does not match its digest.")
    return data


def task_key(task: str, attempt: int) -> str:
    return f"{task}/{attempt}"
