"""An incident: one word stops everything at once, at every site, until somebody takes it back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from aimer2.audit.entries import Json
from aimer2.audit.kinds import Kind
from aimer2.coordinator.queue import Queue
from aimer2.coordinator.recorder import event_row
from aimer2.coordinator.records import Records
from aimer2.coordinator.registry import Registry
from aimer2.coordinator.store import freezes as rows
from aimer2.coordinator.store.database import Database
from aimer2.coordinator.studies import Studies
from aimer2.core.clock import Clock
from aimer2.core.said import say
from aimer2.messages.wire import FreezeState
from aimer2.study.events import StudyPaused

_NAMED = 50


@final
class Freezing:
    def __init__(self, database: Database, registry: Registry, records: Records, queue: Queue, studies: Studies, clock: Clock) -> None:
        self._database = database
        self._registry = registry
        self._records = records
        self._queue = queue
        self._studies = studies
        self._clock = clock

    @property
    def state(self) -> FreezeState:
        return self._registry.frozen

    async def freeze(self, by: str, reason: str) -> FreezeState:
        """No task is handed out, running studies are paused, sites end their workers, nothing starts. Raises Conflict where it is frozen."""
        now = self._clock.now()
        paused = await self._database.write(rows.add_freeze, by, reason, now, event_row(_paused(by, reason, now)))
        await self._records.add(Kind.FROZEN, actor=by, study=None, **frozen_details(reason, paused))
        await self._registry.load()
        await self._studies.check_running()
        self._queue.wake()
        return self.state

    async def thaw(self, by: str, reason: str) -> FreezeState:
        """Studies that all sites have approved start; paused ones wait until somebody resumes them. Raises Conflict where nothing is frozen."""
        await self._database.write(rows.add_thaw, by, reason, self._clock.now())
        await self._registry.load()
        self._queue.wake()
        await self._records.add(Kind.THAWED, actor=by, reason=reason)
        await self._studies.start_ready()
        return self.state


def freeze_now(database: Database, by: str, reason: str, now: float) -> list[str]:
    """From a process of its own, whether the coordinator runs or not; a running one sees it within half a second. The paused studies.

    Raises Conflict where it is frozen.
    """
    return database.write_now(rows.add_freeze, by, reason, now, event_row(_paused(by, reason, now)))


def frozen_details(reason: str, paused: Sequence[str]) -> dict[str, Json]:
    """For the audit log: an entry has room for so many digests; each study's own record says that it was paused."""
    return {"reason": reason, "studies": len(paused), "paused": list(paused[:_NAMED])}


def _paused(by: str, reason: str, now: float) -> StudyPaused:
    return StudyPaused(time=now, reason=say("Frozen by {by}: {reason}", by=by, reason=reason))
