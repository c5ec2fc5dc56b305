"""Many sites' work taken in turns: each goes on until it asks for something, and what all of them ask for is then done at once.

A method's site half is one plain function that trains in its middle. Here each site's runs on a stack of its own (a greenlet) and gives way where
it fits; once all have, one computation answers them, and each goes on from there. One runs at a time and always in the same order, so there is
nothing to lock; and a half that fits twice meets the others twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar, final

from greenlet import getcurrent, greenlet

Asked = TypeVar("Asked")
Got = TypeVar("Got")
Made = TypeVar("Made")


@final
class Turns(Generic[Asked, Got]):
    """``answer`` has one answer for each thing asked, in their order; an error in the place of one is raised where that was asked for."""

    def __init__(self, answer: Callable[[Sequence[Asked]], Sequence[Got | Exception]]) -> None:
        self._answer = answer
        self._taker: greenlet | None = None

    def take(self, calls: Sequence[Callable[[], Made]]) -> Iterator[Made]:
        """What the calls return, in their order, each as soon as it can be. Raises what one of them raises; the others are then given up."""
        self._taker = getcurrent()
        turns = [greenlet(call) for call in calls]
        try:
            told: list[Any] = [turn.switch() for turn in turns]
            given = 0
            while going := [number for number, turn in enumerate(turns) if not turn.dead]:
                answers = self._answer([told[number] for number in going])
                for number, answer in zip(going, answers, strict=True):
                    told[number] = turns[number].switch(answer)
                    while given <= number and turns[given].dead:
                        yield told[given]
                        given += 1
            yield from told[given:]
        finally:
            for turn in turns:
                turn.throw()

    def ask(self, asked: Asked) -> Got:
        """Answered at once where no calls take turns."""
        taker = self._taker
        got = self._answer([asked])[0] if taker is None or getcurrent().parent is not taker else taker.switch(asked)
        if isinstance(got, Exception):
            raise got
        return got
