"""Waking those that wait, on one event loop."""

from __future__ import annotations

import asyncio
from typing import final


@final
class Signal:
    """Wakes everybody who waits at this moment. Nothing is lost as long as the check before ``wait`` and the wait are not parted by an await."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()
        self.count = 0
        """How often it was set: who looks elsewhere before he waits compares it."""

    async def wait(self, seconds: float | None = None) -> None:
        """Returns at the next ``set``, or when the time is over."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, _finish, future)
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)
            if timer is not None:
                timer.cancel()

    def set(self) -> None:
        self.count += 1
        for future in self._waiting:
            _finish(future)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
