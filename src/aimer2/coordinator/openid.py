"""Log-ins by an OpenID provider, which the operator names in the settings: nothing that a user types is ever fetched."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, final
from urllib.parse import quote, urlencode

import urllib3
from sqlalchemy import Connection, delete, func, insert, select

from aimer2.audit.kinds import Kind
from aimer2.client.https import Trust, make_pool, transport_errors
from aimer2.coordinator.records import Records
from aimer2.coordinator.settings import Folder, OpenIdSettings, Settings
from aimer2.coordinator.store import accounts
from aimer2.coordinator.store.accounts import Account, attempt_key
from aimer2.coordinator.store.database import Database
from aimer2.coordinator.store.schema import openid_logins
from aimer2.core.clock import Clock
from aimer2.core.errors import AimerError, BadInput, Conflict, NotAllowed, NotAuthenticated, NotAvailable, Unreachable
from aimer2.core.said import say
from aimer2.identity.openid import Provider, Started, UnknownKey, authorization_url, check_id_token, read_object
from aimer2.identity.secret_files import read_secret

LOGIN_SECONDS = 600
"""So long a person may take at the provider."""

CALLBACK = "/v1/openid/callback"

MOST_PENDING = 10_000
"""Log-ins under way at once: anybody can begin one, and each is a row."""

_LONGEST_ANSWER = 1 << 20
_SECONDS = 10.0
_KEPT_SECONDS = 3600.0
_REREAD_SECONDS = 60.0
"""A token under an unknown key lets the keys be read again, but not more often."""
_FAILED_SECONDS = 10.0
"""A provider that does not answer is not asked again sooner: each asking holds a thread for up to `_SECONDS`."""
_REMEDY = "Give the authority of its certificate as `ca_file` of `[openid]`."


@final
class OpenId:
    def __init__(self, folder: Folder, settings: Settings, database: Database, records: Records, clock: Clock) -> None:
        self._folder = folder
        self._settings = settings
        self._database = database
        self._records = records
        self._clock = clock
        self._provider: tuple[float, Provider] | None = None
        self._keys: tuple[float, list[dict[str, Any]]] | None = None
        self._pool: urllib3.PoolManager | None = None
        self._failed: tuple[float, AimerError] | None = None
        self._discovering = asyncio.Lock()
        # Whoever waits for the provider must not keep the rest of the coordinator from its threads.
        self._threads = ThreadPoolExecutor(2, "openid")

    @property
    def settings(self) -> OpenIdSettings:
        """Raises NotAvailable where there is no provider."""
        if self._settings.openid is None:
            raise NotAvailable(
                "This coordinator has no OpenID provider.", remedy="Log in with a password, or name one in `[openid]` of coordinator.toml."
            )
        return self._settings.openid

    @property
    def name(self) -> str | None:
        return None if self._settings.openid is None else self._settings.openid.name

    async def start(self, target: str) -> tuple[str, str]:
        """The address to send the browser to, and the state that its cookie keeps. ``target``: the page of ours to come back to. Raises BadInput."""
        settings = self.settings
        if not is_own_page(target):
            raise BadInput("The page to come back to is a path of this coordinator, like /studies.")
        provider, started = await self._discover(), Started.new()
        await self._database.write(remember, started, target, self._clock.now())
        address = authorization_url(
            provider, started, client_id=settings.client_id, redirect_uri=self._settings.url + CALLBACK, scopes=settings.scopes
        )
        return address, started.state

    async def finish(self, answer: Mapping[str, str], kept: str) -> tuple[Account, str]:
        """Whose log-in this is, and the page to go to; ``kept``: the state in the browser's cookie. Raises NotAuthenticated, NotAllowed."""
        settings, state, code = self.settings, answer.get("state", ""), answer.get("code", "")
        # Before anything else: the answer belongs to this browser, and is used up with this.
        found = await self._database.write(_take, state, self._clock.now()) if state and state == kept else None
        # RFC 9207: who answers is who was asked.
        if found is None or answer.get("iss", settings.issuer) != settings.issuer:
            raise NotAuthenticated("This log-in is not (or no longer) under way.", remedy="Begin it again.")
        started, target = found
        if not code:
            raise NotAuthenticated("The OpenID provider did not log you in.", remedy="Begin it again, or ask the provider's operator.")
        provider = await self._discover()
        tokens = await self._exchange(provider, code, started)
        claims = await self._check(provider, str(tokens.get("id_token", "")), started)
        claims = await self._complete(provider, claims, tokens)
        account = await self._account(claims)
        await self._records.add(Kind.LOGIN_SUCCEEDED, actor=account.name, role=account.role, by="openid")
        return account, target

    # -- the provider

    async def _discover(self) -> Provider:
        """Raises what the last asking raised, for a moment after it failed."""
        async with self._discovering:
            now, issuer = self._clock.monotonic(), self.settings.issuer
            if self._provider is None or now - self._provider[0] > _KEPT_SECONDS:
                if self._failed is not None and now - self._failed[0] < _FAILED_SECONDS:
                    raise type(self._failed[1])(self._failed[1].sentence, remedy=self._failed[1].advice)
                try:
                    document = await self._ask("GET", issuer.rstrip("/") + "/.well-known/openid-configuration")
                    self._provider = now, Provider.read(issuer, document)
                except AimerError as error:
                    self._failed = self._clock.monotonic(), error
                    raise
            return self._provider[1]

    async def _exchange(self, provider: Provider, code: str, started: Started) -> dict[str, Any]:
        settings = self.settings
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._settings.url + CALLBACK,
            "client_id": settings.client_id,
            "code_verifier": started.verifier,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if settings.client_secret:
            secret = (await asyncio.to_thread(read_secret, self._folder.resolve(settings.client_secret))).decode().strip()
            # RFC 6749, section 2.3.1: both are encoded before they are joined.
            pair = f"{quote(settings.client_id, safe='')}:{quote(secret, safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return read_object(await self._ask("POST", provider.token_endpoint, headers, urlencode(fields).encode()))

    async def _check(self, provider: Provider, token: str, started: Started) -> dict[str, Any]:
        known = {"issuer": provider.issuer, "client_id": self.settings.client_id, "nonce": started.nonce, "now": self._clock.now()}
        try:
            return check_id_token(token, await self._read_keys(provider, _KEPT_SECONDS), **known)  # type: ignore[arg-type]  # by their names
        except UnknownKey:
            # It may have taken a new key since.
            return check_id_token(token, await self._read_keys(provider, _REREAD_SECONDS), **known)  # type: ignore[arg-type]

    async def _read_keys(self, provider: Provider, oldest: float) -> list[dict[str, Any]]:
        now = self._clock.monotonic()
        if self._keys is None or now - self._keys[0] > oldest:
            found = read_object(await self._ask("GET", provider.jwks_uri)).get("keys")
            self._keys = now, [key for key in found if isinstance(key, dict)] if isinstance(found, list) else []
        return self._keys[1]

    async def _complete(self, provider: Provider, claims: dict[str, Any], tokens: Mapping[str, Any]) -> dict[str, Any]:
        """Claims that the provider tells at its userinfo endpoint only (OpenID Connect Core, section 5.3)."""
        wanted = {self.settings.name_claim, *([self.settings.roles_claim] if self.settings.roles else [])}
        token = tokens.get("access_token")
        if wanted <= claims.keys() or provider.userinfo_endpoint is None or not isinstance(token, str) or not token.isprintable():
            return claims
        more = read_object(await self._ask("GET", provider.userinfo_endpoint, {"Authorization": f"Bearer {token}"}))
        if more.get("sub") != claims["sub"]:
            raise NotAuthenticated("The OpenID provider told of another person.")
        return {**more, **claims}

    async def _ask(self, method: str, address: str, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._ask_now, method, address, dict(headers or {}), body)

    def _ask_now(self, method: str, address: str, headers: dict[str, str], body: bytes | None) -> bytes:
        settings = self.settings
        if self._pool is None:
            authorities: Path | None = self._folder.resolve(settings.ca_file) if settings.ca_file else None
            self._pool = make_pool(settings.issuer, Trust(ca_file=authorities), connections=2)
        with transport_errors(settings.issuer, _REMEDY):
            response = self._pool.request(
                method, address, body=body, headers=headers, timeout=_SECONDS, redirect=False, preload_content=False, decode_content=False
            )
            try:
                answer = response.read(_LONGEST_ANSWER + 1)
            finally:
                response.close()
        if 400 <= response.status < 500:
            raise NotAuthenticated("The OpenID provider did not accept this log-in.", remedy="Begin it again; if it comes again, ask the operator.")
        if response.status != 200 or len(answer) > _LONGEST_ANSWER:
            # Its words may quote a secret.
            raise Unreachable(
                say("The OpenID provider answered with status {status}.", status=response.status),
                remedy="Begin again; if it comes again, ask the operator.",
            )
        return answer

    # -- the account

    async def _account(self, claims: Mapping[str, Any]) -> Account:
        """The account of this person, with the role that the provider's groups give now. Raises NotAllowed."""
        settings, subject = self.settings, str(claims["sub"])
        role = self._role(claims)
        known = await self._database.read(accounts.find_subject, settings.issuer, subject)
        if known is None:
            if not settings.create_accounts or role is None:
                raise NotAllowed(
                    "You have no account here.",
                    remedy=say(
                        "Ask the operator for one: `aimer2 coordinator user add NAME --role ROLE --openid-subject {subject}`.", subject=subject
                    ),
                )
            name = claims.get(settings.name_claim)
            account = Account(name if isinstance(name, str) else subject, *role, issuer=settings.issuer, subject=subject)
            try:
                await self._database.write(accounts.add_account, account, self._clock.now())
            except Conflict:
                raise NotAllowed(
                    "There is or was another account of your name here.", remedy="Ask the operator to add yours under another one."
                ) from None
            await self._records.add(Kind.USER_ADDED, actor="openid", user=account.name, role=account.role, site=account.site or "")
            return account
        if role is not None and role != (known.role, known.site):
            await self._database.write(accounts.change_role, known.name, *role)
            await self._records.add(Kind.USER_CHANGED, actor="openid", user=known.name, role=role[0], site=role[1] or "")
            return replace(known, role=role[0], site=role[1])
        return known

    def _role(self, claims: Mapping[str, Any]) -> tuple[str, str | None] | None:
        """Role and site of the first of the settings' groups that the person is in; None where the settings leave it to the operator."""
        settings = self.settings
        if not settings.roles:
            return None
        told = claims.get(settings.roles_claim)
        groups = told if isinstance(told, list) else [told]
        found = next((role for group, role in settings.roles.items() if group in groups), None)
        if found is None:
            raise NotAllowed("None of your groups at the OpenID provider has a role here.")
        role, _, site = found.partition(":")
        return role, site or None


def is_own_page(target: str) -> bool:
    """Whether it is a path of this coordinator, in the eyes of every browser."""
    return (
        target.startswith("/")
        and not target.startswith("//")
        and "\\" not in target
        and target.isascii()
        and target.isprintable()
        and len(target) <= 500
    )


def remember(connection: Connection, started: Started, target: str, now: float) -> None:
    """Forgets what has expired besides. Raises Unreachable while there are `MOST_PENDING`."""
    connection.execute(delete(openid_logins).where(openid_logins.c.expires < now))
    if connection.execute(select(func.count()).select_from(openid_logins)).scalar_one() >= MOST_PENDING:
        raise Unreachable("Too many people are logging in at the moment.", remedy="Try again in some minutes.")
    values = {"nonce": started.nonce, "verifier": started.verifier, "target": target, "expires": now + LOGIN_SECONDS}
    connection.execute(insert(openid_logins).values(state_hash=attempt_key(started.state), **values))


def _take(connection: Connection, state: str, now: float) -> tuple[Started, str] | None:
    """The log-in of this state, once."""
    mine = openid_logins.c.state_hash == attempt_key(state)
    found = connection.execute(select(openid_logins).where(mine)).one_or_none()
    if found is None or connection.execute(delete(openid_logins).where(mine)).rowcount != 1 or found.expires < now:
        return None
    return Started(state, found.nonce, found.verifier), found.target
