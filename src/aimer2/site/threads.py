"""Threads: for blocking requests, which the end of the process does not wait for, as one may wait for a minute; and for what must not be left half
done."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar, final

Made = TypeVar("Made")
_Call: TypeAlias = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


@final
class Threads:
    """Grows with the calls that run at once; an idle thread takes the next call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[_Call] = SimpleQueue()
        self._idle = 0
        self._lock = threading.Lock()

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns or raises. Cancelling stops the waiting, not the function."""
        result = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._idle == 0:
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
            else:
                self._idle -= 1
        self._calls.put((result, function, arguments))
        return await result

    def _work(self) -> None:
        while True:
            result, function, arguments = self._calls.get()
            outcome, error = None, None
            try:
                outcome = function(*arguments)
            except BaseException as raised:  # noqa: BLE001 - handed to whoever waits
                error = raised
            with self._lock:
                self._idle += 1
            try:
                result.get_loop().call_soon_threadsafe(_settle, result, outcome, error)
            except RuntimeError:
                return  # the loop has ended: nobody waits
            del result, outcome, error


async def to_the_end(function: Callable[..., Made], *given: Any) -> Made:
    """In a thread, waited for to its end also where the task is called off: it must not write when others think that it is done."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *given))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


def _settle(future: asyncio.Future[Any], outcome: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(outcome)
    else:
        future.set_exception(error)
