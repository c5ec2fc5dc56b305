"""A running study's memory: its events and checkpoints, stored under its lease."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, final

from aimer2.coordinator.store import studies as rows
from aimer2.coordinator.store.database import Database
from aimer2.coordinator.store.studies import EventRow
from aimer2.core.errors import Conflict
from aimer2.core.task import ITERATED
from aimer2.study.events import EVENT, Event, RoundFinished, StudyFinished

_SOON_SECONDS = 0.05


@final
class Recorder:
    """The `Checkpoints` of one study, and the writer of its events.

    Events wait for the next checkpoint and are stored in the same transaction, or by themselves a moment later: nobody sees one before it is stored.
    """

    def __init__(self, database: Database, digest: str, holder: str, stored: Callable[[], None]) -> None:
        self._database = database
        self._digest = digest
        self._holder = holder
        self._stored = stored
        self._pending: list[EventRow] = []
        self._timer: asyncio.TimerHandle | None = None
        self._writing: set[asyncio.Task[None]] = set()

    def add(self, event: Event) -> None:
        self._pending.append(event_row(event))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SOON_SECONDS, self._flush_soon)

    def take(self) -> list[EventRow]:
        """What is not stored yet; whoever takes it stores it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        taken, self._pending = self._pending, []
        return taken

    async def settle(self) -> None:
        """Waits for writes that are under way. Raises what went wrong with them."""
        await asyncio.gather(*self._writing)

    async def flush(self) -> None:
        """Every event so far is stored when this returns."""
        await self.settle()
        await self._flush(self.take())

    async def load(self) -> dict[str, Any] | None:
        text = await self._database.read(rows.load_checkpoint, self._digest)
        return None if text is None else json.loads(text)

    async def save(self, document: dict[str, Any]) -> None:
        await self.settle()
        await self._database.write(rows.save_checkpoint, self._digest, self._holder, json.dumps(document), self.take())
        self._stored()

    async def events(self) -> Sequence[Event]:
        await self.flush()
        found: list[Event] = []
        after = 0
        while page := await self._database.read(rows.read_events, self._digest, after, 1000):
            found += [EVENT.validate_json(text) for _, text in page]
            after = page[-1][0]
        return found

    def _flush_soon(self) -> None:
        self._timer = None
        task = asyncio.get_running_loop().create_task(self._flush(self.take()))
        self._writing.add(task)
        task.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        # A failure stays where `settle` finds it.
        if not task.cancelled() and task.exception() is None:
            self._writing.discard(task)

    async def _flush(self, taken: Sequence[EventRow]) -> None:
        if not taken:
            return
        if not await self._database.write(rows.append_events, self._digest, self._holder, taken):
            raise Conflict("Another process conducts this study now.")
        self._stored()


def event_row(event: Event) -> EventRow:
    if isinstance(event, RoundFinished):
        number = event.round_number if event.stage in ITERATED else None
        return EventRow(event.model_dump_json(), event.model.sha256 if event.model else None, number)
    return EventRow(event.model_dump_json(), event.result["model"]["sha256"] if isinstance(event, StudyFinished) else None)
