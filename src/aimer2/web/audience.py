"""Many who wait for the same news: a crowd is told a few at a time, so that whoever else uses this event loop is not kept waiting behind it."""

from __future__ import annotations

import asyncio
from typing import Final, final

_TOGETHER: Final = 16


@final
class Audience:
    """Whoever looks whether there is something and, without awaiting anything between, waits: misses nothing."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Until the next `tell`, which must come: there is no time limit."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    async def tell(self) -> None:
        """Wakes everybody who waits at this moment, also where it is cancelled before it is through."""
        waiting, self._waiting = self._waiting, []
        try:
            for first in range(0, len(waiting), _TOGETHER):
                if first:
                    await asyncio.sleep(0)
                _finish(waiting[first : first + _TOGETHER])
        finally:
            _finish(waiting)

    def tell_at_once(self) -> None:
        """As `tell`, where nothing can be awaited any more."""
        waiting, self._waiting = self._waiting, []
        _finish(waiting)


def _finish(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
