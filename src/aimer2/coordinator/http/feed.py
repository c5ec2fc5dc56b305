"""A study's events as all its streams send them: read from the store once and encoded once, whoever many follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, final

from aimer2.coordinator.coordinator import Coordinator
from aimer2.coordinator.store.studies import last_event, read_events
from aimer2.web.audience import Audience

_LEAST_SECONDS: Final = 0.02
"""Between two tellings; the first after a silence is told at once. To tell every event of quick rounds by itself costs as much as their replies."""
_SECONDS_PER_READER: Final = 0.0005
"""With many readers more time is left between two tellings, so that they never take more than a part of a core."""
_KEPT_BYTES: Final = 1 << 18
_PAGE: Final = 200


@final
class Feeds:
    """One feed per study that somebody follows."""

    def __init__(self, coordinator: Coordinator, heartbeat_seconds: float) -> None:
        """``heartbeat_seconds``: as often at least something is sent, and it is asked whether the reader may still read."""
        self._coordinator = coordinator
        self._heartbeat = heartbeat_seconds
        self._feeds: dict[str, _Feed] = {}

    async def follow(self, digest: str, after: int, is_let_in: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
        """What comes after event number ``after``, until the study runs no more or the reader may no longer read."""
        clock = self._coordinator.clock
        feed = self._feeds.get(digest)
        if feed is None:
            feed = self._feeds[digest] = _Feed(self._coordinator, digest, self._heartbeat)
        feed.join()
        try:
            yield b": the events of a study\n\n"
            asked = clock.monotonic()
            while True:
                tellings, over, sent = feed.tellings, feed.over, False
                while page := await feed.after(after):
                    after, text = page
                    if clock.monotonic() - asked >= self._heartbeat:
                        if not await is_let_in():
                            return
                        asked = clock.monotonic()
                    sent = True
                    yield text
                if over:
                    feed.check()
                    return
                if tellings and not sent:
                    if not await is_let_in():
                        return
                    asked = clock.monotonic()
                    yield b": still here\n\n"
                if feed.tellings == tellings:
                    await feed.audience.wait()
        finally:
            feed.leave()
            if not feed.readers:
                self._feeds.pop(digest, None)

    async def so_far(self, digest: str, after: int) -> AsyncIterator[bytes]:
        """What has happened up to now."""
        yield b": the events of a study\n\n"
        while page := await self._coordinator.database.read(read_events, digest, after, _PAGE):
            after = page[-1][0]
            yield _encoded(page)


@final
class _Feed:
    """The newest pages, which a reader who keeps up is handed; one who is behind reads what he lacks from the store."""

    def __init__(self, coordinator: Coordinator, digest: str, heartbeat_seconds: float) -> None:
        self._coordinator = coordinator
        self._digest = digest
        self._heartbeat = heartbeat_seconds
        self._kept: dict[int, tuple[int, bytes]] = {}
        """By the number of the event before it, each page: the number of its last event, and its text."""
        self._bytes = 0
        self._last = 0
        self._reading: asyncio.Task[None] | None = None
        self.audience = Audience()
        self.readers = 0
        self.tellings = 0
        """How often all were told that there is something to look at, if only that all is quiet."""
        self.over = False
        """Nothing comes any more but what can be read now."""

    def join(self) -> None:
        self.readers += 1
        if self._reading is None or self._reading.done():
            self.over = False
            self.tellings = 0
            self._reading = asyncio.create_task(self._read())

    def leave(self) -> None:
        self.readers -= 1
        if not self.readers and self._reading is not None:
            self._reading.cancel()

    def check(self) -> None:
        """Raises what has ended the reading, where that was a fault."""
        if self._reading is not None and self._reading.done():
            self._reading.result()

    async def after(self, number: int) -> tuple[int, bytes] | None:
        """The number of the last event and the text of a page after this event; None where nothing has come."""
        if number >= self._last:
            return None
        if kept := self._kept.get(number):
            return kept
        # No further than what was told to all: so the next page that is kept follows on this one.
        page = await self._coordinator.database.read(read_events, self._digest, number, min(_PAGE, self._last - number))
        return (page[-1][0], _encoded(page)) if page else None

    async def _read(self) -> None:
        coordinator, digest = self._coordinator, self._digest
        news = coordinator.studies.news(digest)
        try:
            self._last = await coordinator.database.read(last_event, digest)
            while not self.over:
                seen = news.count
                # The state before the events: what ends a study is stored in one transaction with its last event.
                going_on = coordinator.registry.study(digest).state in ("offered", "running")
                while page := await coordinator.database.read(read_events, digest, self._last, _PAGE):
                    self._keep(page)
                self.over = not going_on or coordinator.queue.closing
                self.tellings += 1
                await self.audience.tell()
                await asyncio.sleep(max(_LEAST_SECONDS, _SECONDS_PER_READER * self.readers))
                await news.wait(seen, self._heartbeat)
        finally:
            self.over = True
            self.tellings += 1
            self.audience.tell_at_once()

    def _keep(self, page: Sequence[tuple[int, str]]) -> None:
        text = _encoded(page)
        self._kept[self._last] = page[-1][0], text
        self._last = page[-1][0]
        self._bytes += len(text)
        while self._bytes > _KEPT_BYTES:
            oldest = next(iter(self._kept))
            self._bytes -= len(self._kept.pop(oldest)[1])


def _encoded(page: Sequence[tuple[int, str]]) -> bytes:
    return "".join(f"id: {number}\ndata: {document}\n\n" for number, document in page).encode()
