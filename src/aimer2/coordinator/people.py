"""Accounts of people: researchers, operators, auditors."""

from __future__ import annotations

import asyncio
from typing import Literal, TypeAlias, final, get_args

from aimer2.audit.kinds import Kind
from aimer2.coordinator.records import Records
from aimer2.coordinator.store import members
from aimer2.coordinator.store.database import Database
from aimer2.core.clock import Clock
from aimer2.core.errors import NotAllowed, NotAuthenticated
from aimer2.identity.passwords import hash_password, needs_rehash, verify_or_burn

Role: TypeAlias = Literal["researcher", "operator", "auditor"]
"""researcher: submits and conducts studies, sees his own. operator: sees all, may start and stop them. auditor: sees all."""
ROLES: tuple[Role, ...] = get_args(Role)

FAILURES = 5
PAUSE_SECONDS = 60.0
"""After so many failures in a row an account is closed for this long, whatever the password."""


@final
class People:
    def __init__(self, database: Database, records: Records, clock: Clock) -> None:
        self._database = database
        self._records = records
        self._clock = clock
        self._failures: dict[str, tuple[int, float]] = {}
        # Argon2 takes 64 MiB: one at a time.
        self._one = asyncio.Lock()

    async def login(self, name: str, password: str) -> str:
        """The role of the user. Raises NotAuthenticated, always with the same sentence; NotAllowed after too many failures."""
        async with self._one:
            self._check_failures(name)
            found = await self._database.read(members.find_password, name)
            role, stored = found or ("", None)
            good = await asyncio.to_thread(verify_or_burn, stored, password)
            if not good or stored is None:
                self._note_failure(name)
                await self._records.add(Kind.LOGIN_FAILED, actor=name[:200])
                raise NotAuthenticated("The name or the password is wrong.")
            self._failures.pop(name, None)
            if needs_rehash(stored):
                await self._database.write(members.set_password, name, await asyncio.to_thread(hash_password, password))
            await self._records.add(Kind.LOGIN_SUCCEEDED, actor=name, role=role)
            return role

    def _check_failures(self, name: str) -> None:
        count, last = self._failures.get(name, (0, 0.0))
        if count >= FAILURES and self._clock.monotonic() - last < PAUSE_SECONDS:
            raise NotAllowed("Too many failed log-ins.", remedy=f"Wait {PAUSE_SECONDS:.0f} seconds, then try again.")

    def _note_failure(self, name: str) -> None:
        now = self._clock.monotonic()
        self._failures = {key: (count, last) for key, (count, last) in self._failures.items() if now - last < PAUSE_SECONDS}
        self._failures[name] = (self._failures.get(name, (0, now))[0] + 1, now)
