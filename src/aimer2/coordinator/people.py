"""How people prove who they are with a password; who guesses is slowed down, and nobody else with him."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import final

from sqlalchemy import Connection

from aimer2.audit.kinds import Kind
from aimer2.coordinator.records import Records
from aimer2.coordinator.store import accounts
from aimer2.coordinator.store.accounts import Account, Attempts, attempt_key
from aimer2.coordinator.store.database import Database
from aimer2.core.clock import Clock
from aimer2.core.errors import NotAuthenticated, TooManyAttempts
from aimer2.core.said import say
from aimer2.identity.passwords import hash_password, needs_rehash, verify_or_burn

PAIR_FAILURES = 5
ADDRESS_FAILURES = 30
ACCOUNT_FAILURES = 50
"""In a row: of one account from one address; from one address; of one account from anywhere. Then the log-in is closed."""

PAUSE_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 3600.0
"""Closed for the first at first, for twice as long after each further failure, at most for the second."""


@final
class People:
    def __init__(self, database: Database, records: Records, clock: Clock) -> None:
        self._database = database
        self._records = records
        self._clock = clock
        # Argon2 takes 64 MiB: one at a time.
        self._one = asyncio.Lock()

    async def login(self, name: str, password: str, address: str) -> Account:
        """The account. Raises NotAuthenticated, always with the same sentence; TooManyAttempts.

        An attempt counts as failed before it is looked at, so that many at once are as slow as one after the other. An account that has been
        logged in to from an address before is not closed there by what others do: neither by guessing its password elsewhere nor from there.
        """
        await self._database.write(begin_attempt, name, address, self._clock.now())
        async with self._one:
            account = await self._database.read(accounts.find_account, name)
            stored = account.password if account is not None and account.password else None
            good = await asyncio.to_thread(verify_or_burn, stored, password)
        if not good or account is None:
            await self._records.add(Kind.LOGIN_FAILED, actor=name[:200])
            raise NotAuthenticated("The name or the password is wrong.")
        await self._database.write(note_success, name, address, self._clock.now())
        if needs_rehash(account.password):
            await self.set_password(name, password)
        await self._records.add(Kind.LOGIN_SUCCEEDED, actor=name, role=account.role)
        return account

    async def set_password(self, name: str, password: str) -> None:
        """Raises BadInput for one that is too short."""
        async with self._one:
            hashed = await asyncio.to_thread(hash_password, password)
        await self._database.write(accounts.set_password, name, hashed)


def begin_attempt(connection: Connection, name: str, address: str, now: float) -> None:
    """Counts the attempt as failed. Raises TooManyAttempts, and counts nothing, where the log-in is closed."""
    pair, others = _keys(name, address)
    known = accounts.read_attempts(connection, [pair, *others], now)
    pauses = [_left(known[pair], PAIR_FAILURES, now)]
    if known[pair].succeeded is None:
        pauses += [_left(known[key], allowed, now) for key, allowed in zip(others, (ADDRESS_FAILURES, ACCOUNT_FAILURES), strict=True)]
    if max(pauses) > 0:
        raise TooManyAttempts(remedy=say("Wait {pauses} seconds, then try again.", pauses=f"{max(pauses):.0f}"))
    accounts.note_failures(connection, [pair, *others], now)


def note_success(connection: Connection, name: str, address: str, now: float) -> None:
    """Takes back that the attempt has counted as failed."""
    pair, others = _keys(name, address)
    accounts.note_success(connection, pair, others, now)


def _keys(name: str, address: str) -> tuple[str, list[str]]:
    network = _network(address)
    return attempt_key("pair", name, network), [attempt_key("address", network), attempt_key("account", name)]


def _left(attempts: Attempts, allowed: int, now: float) -> float:
    """Seconds for which this is closed."""
    if attempts.failures < allowed:
        return 0.0
    pause = min(PAUSE_SECONDS * 2.0 ** min(attempts.failures - allowed, 20), LONGEST_PAUSE_SECONDS)
    return attempts.last + pause - now


def _network(address: str) -> str:
    """One household or ward has 2^64 addresses of IPv6: they count as one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)
