"""Threads for blocking requests, which the end of the process does not wait for: a request may wait for a minute."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias, final

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


def _settle(future: asyncio.Future[Any], outcome: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(outcome)
    else:
        future.set_exception(error)
