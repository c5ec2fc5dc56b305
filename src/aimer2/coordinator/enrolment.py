"""How sites come and go: invitations, enrolment, tokens, new keys, revocation."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from aimer2.audit.kinds import Kind
from aimer2.coordinator.permissions import SITE
from aimer2.coordinator.records import Records
from aimer2.coordinator.registry import Registry
from aimer2.coordinator.settings import Settings
from aimer2.coordinator.store import members
from aimer2.coordinator.store.database import Database
from aimer2.core.clock import Clock
from aimer2.core.errors import BadInput, ClockSkew, Conflict, NotAuthenticated, Tampered
from aimer2.core.said import say
from aimer2.identity.assertions import CLOCK_TOLERANCE, check_assertion
from aimer2.identity.documents import open_document
from aimer2.identity.invitations import Invitation, hash_code, new_code
from aimer2.identity.keys import PublicKey, SigningKey
from aimer2.identity.tokens import Holder, check_token, issue_token
from aimer2.messages.wire import Enrolled, EnrolmentRequest, KeyRotation, Token

_REMEMBERED = 10_000
_GRANT = "client_credentials"
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@final
@dataclass(frozen=True, slots=True)
class EnrolmentParts:
    database: Database
    registry: Registry
    records: Records
    settings: Settings
    key: SigningKey
    token_secret: bytes
    clock: Clock


@final
@dataclass(frozen=True, slots=True)
class _UsedAssertions:
    """A replay guard that a restart does not make forget."""

    database: Database
    clock: Clock

    def remember(self, identifier: str, until: float) -> bool:
        return self.database.write_now(members.use_assertion, identifier, until, self.clock.now())


@final
class Enrolment:
    def __init__(self, parts: EnrolmentParts) -> None:
        self._parts = parts
        self._used = _UsedAssertions(parts.database, parts.clock)
        self._checked: dict[str, Holder] = {}
        """Tokens whose signature was checked: checking again is a tenth of an exchange."""

    async def enrol(self, request: EnrolmentRequest) -> Enrolled:
        """Raises NotAllowed for an invitation that is not valid, Conflict where the site is enrolled already."""
        parts = self._parts
        PublicKey.from_text(request.key)
        enrolment = members.Enrolment(hash_code(request.code), request.site, request.key, parts.clock.now())
        if await parts.database.write(members.enrol, enrolment):
            await parts.registry.load()
            await parts.records.add(Kind.SITE_ENROLLED, actor=request.site, key=request.key, version=request.version[:40])
        return Enrolled(site=request.site, coordinator_key=parts.key.public.text, name=parts.settings.name)

    async def token(self, form: Mapping[str, str]) -> Token:
        """A token for the site that signed the assertion (RFC 7523). Raises BadInput, NotAuthenticated or ClockSkew."""
        if form.get("grant_type") != _GRANT or form.get("client_assertion_type") != _ASSERTION or "client_assertion" not in form:
            raise BadInput(
                say(
                    "A token is asked for with grant_type={grant}, client_assertion_type={assertion} and client_assertion.",
                    grant=_GRANT,
                    assertion=_ASSERTION,
                )
            )
        site = await asyncio.to_thread(self._check, form["client_assertion"])
        return self._issue(site, SITE, self._parts.settings.site_token_seconds)

    def site(self, token: str) -> str:
        """Which site shows this token: one that is not revoked. Raises NotAuthenticated."""
        holder = self._checked.get(token)
        if holder is None or holder.expires <= self._parts.clock.now():
            holder = check_token(self._parts.token_secret, token, now=self._parts.clock.now())
            if len(self._checked) >= _REMEMBERED:
                self._checked.clear()
            self._checked[token] = holder
        site = self._parts.registry.sites.get(holder.subject)
        if holder.role != SITE or site is None or site.revoked:
            raise NotAuthenticated("The token was not accepted: the site was revoked.")
        return holder.subject

    async def rotate(self, site: str, rotation: KeyRotation) -> None:
        """The site's new key, under the signatures of both. Raises Tampered, NotAuthenticated, ClockSkew or Conflict."""
        parts = self._parts
        old = parts.registry.sites[site].key
        payload = open_document(rotation.statement, old, kind="key-rotation")
        try:
            fields = json.loads(payload)
            named, text, moment = fields["site"], fields["key"], float(fields["time"])
        except (ValueError, KeyError, TypeError):
            raise BadInput("The statement holds site, key and time.") from None
        new = PublicKey.from_text(text)
        if open_document(rotation.proof, new, kind="key-rotation") != payload or named != site:
            raise Tampered("The proof is not the statement under the new key.")
        if abs(parts.clock.now() - moment) > CLOCK_TOLERANCE:
            raise ClockSkew("The statement was made at another time than now.")
        if new == old:
            raise Conflict("The new key is the old one.")
        await parts.database.write(members.change_key, site, old.text, new.text)
        await parts.registry.load()
        await parts.records.add(Kind.SITE_KEY_REPLACED, actor=site, key=new.text, replaces=old.text)

    def _check(self, assertion: str) -> str:
        return check_assertion(assertion, key_of=self._key_of, audience=self._parts.settings.url, now=self._parts.clock.now(), seen=self._used)

    def _key_of(self, name: str) -> PublicKey | None:
        site = self._parts.registry.sites.get(name)
        return None if site is None or site.revoked else site.key

    def _issue(self, subject: str, role: str, seconds: int) -> Token:
        text = issue_token(self._parts.token_secret, subject=subject, role=role, now=self._parts.clock.now(), lifetime_seconds=seconds)
        return Token(access_token=text, expires_in=seconds)


@final
@dataclass(frozen=True, slots=True)
class Inviter:
    """What an invitation is made of."""

    settings: Settings
    coordinator_key: PublicKey
    fingerprint: str | None
    clock: Clock

    def invite(self, database: Database, site: str, by: str = "") -> Invitation:
        """A new invitation for this site, good once. Raises Conflict where the site is enrolled already."""
        now = self.clock.now()
        expires = int(now) + self.settings.invitation_seconds
        code = new_code()
        database.write_now(members.add_invitation, hash_code(code), site, now, expires, by)
        return Invitation(
            url=self.settings.url,
            code=code,
            fingerprint=self.fingerprint,
            coordinator_key=self.coordinator_key.text,
            site=site,
            expires=expires,
        )


def new_token_secret() -> bytes:
    return secrets.token_bytes(32)
