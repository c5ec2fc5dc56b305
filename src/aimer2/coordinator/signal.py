"""Waking those that wait, on one event loop."""

from __future__ import annotations

import asyncio
from typing import final


@final
class Signal:
    """Wakes everybody who waits at this moment.

    Whoever looks whether there is something, does anything else and then waits, takes ``count`` before he looks: so nothing is missed.
    """

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()
        self.count = 0
        """How often it was set."""

    async def wait(self, seen: int, seconds: float | None = None) -> None:
        """Returns once it was set more than ``seen`` times (at once if it was already), or when the time is over."""
        if self.count != seen:
            return
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
