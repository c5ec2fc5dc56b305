"""What happened, written twice: one line in the log of the process, one signed entry in the audit log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import final

from aimer2.audit.entries import Event, Head, Json
from aimer2.audit.kinds import Kind
from aimer2.audit.log import AuditLog
from aimer2.core.errors import BadInput, TooLarge

LOG = logging.getLogger("aimer2.coordinator")

_SOON_SECONDS = 0.5
"""Each record waits for the disk: what a round leaves behind is written together."""


@final
class Records:
    """Everything worth knowing afterwards goes through here; never a secret, never a value of a patient."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        # One thread: the order of the entries is that of the calls.
        self._thread = ThreadPoolExecutor(1, "audit")
        self._waiting: list[Event] = []
        self._unwritten: list[Event] = []
        self._timer: asyncio.TimerHandle | None = None

    @property
    def failing(self) -> bool:
        """Whether there are entries that the disk did not take; they are tried again with the next one."""
        return bool(self._unwritten)

    async def add(self, kind: Kind, *, actor: str, study: str | None = None, **details: Json) -> None:
        """On the disk when this returns. For whatever a person or a site does."""
        events = [*self._take(), Event(str(kind), actor, study, details)]
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, events)
        _say(kind, actor, study, details)

    def later(self, kind: Kind, *, actor: str, study: str | None = None, **details: Json) -> None:
        """On the disk within half a second, together with others. For what happens on the path of a round, which nothing may slow."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SOON_SECONDS, self._flush)
        self._waiting.append(Event(str(kind), actor, study, details))

    def add_now(self, kind: Kind, *, actor: str, study: str | None = None, details: Mapping[str, Json]) -> None:
        """For a process without an event loop: the command line."""
        self._audit.append(kind, actor=actor, study=study, details=details)
        _say(kind, actor, study, details)

    async def head(self) -> Head:
        """How far the log goes, with all that was added before."""
        events = self._take()
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._head, events)

    async def close(self) -> None:
        """Everything is written after this."""
        events = self._take()
        if events:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._write, events)
        self._thread.shutdown()

    def _take(self) -> list[Event]:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        taken, self._waiting = self._waiting, []
        return taken

    def _flush(self) -> None:
        self._thread.submit(self._write_or_keep, self._take())

    def _write_or_keep(self, events: Sequence[Event]) -> None:
        try:
            self._write(events)
        except Exception as error:  # noqa: BLE001 - nobody waits for it: it is tried again with the next entry, and health tells
            LOG.error("the audit log was not written: %s", type(error).__name__)

    def _write(self, events: Sequence[Event]) -> None:
        """In the one thread. Raises what `AuditLog.extend` raises; what the disk did not take is kept for the next time."""
        self._unwritten += events
        try:
            self._audit.extend(self._unwritten)
        except (BadInput, TooLarge):
            self._write_one_by_one()
            raise
        self._unwritten.clear()

    def _write_one_by_one(self) -> None:
        """An entry that can never be written must not hold up the others."""
        while self._unwritten:
            with suppress(BadInput, TooLarge):
                self._audit.extend(self._unwritten[:1])
            del self._unwritten[0]

    def _head(self, events: Sequence[Event]) -> Head:
        if events:
            self._write(events)
        return self._audit.head()


def _say(kind: Kind, actor: str, study: str | None, details: Mapping[str, Json]) -> None:
    about = _printable(" ".join(f"{name}={value}" for name, value in details.items()))
    LOG.info("%s by %s%s %s", kind, _printable(actor), f" study={study[:16]}" if study else "", about)


def _printable(text: str) -> str:
    """On one line: what somebody typed must not look like a line of ours."""
    return "".join(character if character.isprintable() else "?" for character in text)
