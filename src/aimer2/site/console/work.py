"""What takes longer than a page may: rehearsals, checks, refreshes. Done in threads of the console; how far each is can be asked at any time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, TypeAlias, final

from aimer2.core.clock import Clock
from aimer2.core.errors import AimerError, Conflict

Tell: TypeAlias = Callable[[int, int], None]
"""Called with how many parts are done, and of how many."""

_LOG = logging.getLogger("aimer2.site.console")


@final
@dataclass(slots=True)
class Piece:
    """One piece of work. ``began``: seconds since 1970; ``made``: what it gave."""

    by: str
    began: float
    done: int = 0
    of: int = 0
    state: Literal["running", "done", "failed"] = "running"
    error: AimerError | None = None
    made: Any = None


@final
class Work:
    def __init__(self, clock: Clock, threads: int = 2) -> None:
        self._clock = clock
        self._lock = Lock()
        self._pieces: dict[str, Piece] = {}
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="work")

    def begin(self, name: str, work: Callable[[Tell], Any], *, by: str) -> None:
        """Raises Conflict where that is under way."""
        with self._lock:
            known = self._pieces.get(name)
            if known is not None and known.state == "running":
                raise Conflict("That is under way already.", remedy="Wait until it is done.")
            piece = self._pieces[name] = Piece(by, self._clock.now())
        self._threads.submit(_do, piece, work)

    def find(self, name: str) -> Piece | None:
        return self._pieces.get(name)

    def close(self) -> None:
        """What has not begun is left; what is under way ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _do(piece: Piece, work: Callable[[Tell], Any]) -> None:
    def tell(done: int, of: int) -> None:
        piece.done, piece.of = done, of

    try:
        piece.made = work(tell)
    except AimerError as error:
        piece.error = error
    except Exception as error:  # noqa: BLE001 - the edge: the text of what was raised may quote a record
        _LOG.error("a piece of work ended by %s", type(error).__name__)
        piece.error = AimerError("Something went wrong at this site's console.")
    piece.state = "done" if piece.error is None else "failed"
