"""Calls that take turns: who meets whom, in which order, and what becomes of errors."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest

from aimer2.learners.turns import Turns


def test_calls_meet_as_often_as_each_asks_and_end_when_they_end() -> None:
    met: list[list[str]] = []

    def answer(asked: Sequence[str]) -> list[str]:
        met.append(list(asked))
        return [one.upper() for one in asked]

    turns: Turns[str, str] = Turns(answer)

    def call(name: str, times: int) -> str:
        return "".join(turns.ask(f"{name}{number}") for number in range(times))

    made = turns.take([partial(call, "a", 2), partial(call, "b", 0), partial(call, "c", 3)])
    assert next(made) == "A0A1" and len(met) == 2, "told as soon as it is there"
    assert list(made) == ["", "C0C1C2"]
    assert met == [["a0", "c0"], ["a1", "c1"], ["c2"]]
    assert call("d", 1) == "D0", "asked outside, it is answered at once"


def test_an_error_is_raised_where_it_was_asked_for_and_one_that_nobody_catches_ends_all() -> None:
    ended: list[str] = []
    turns: Turns[int, int] = Turns(lambda asked: [ValueError("odd") if one % 2 else one for one in asked])

    def call(number: int, caught: bool) -> int:
        try:
            return turns.ask(number)
        except ValueError:
            if not caught:
                raise
            return -1
        finally:
            ended.append(f"{number}")

    assert list(turns.take([partial(call, 1, True), partial(call, 2, True)])) == [-1, 2]
    ended.clear()
    with pytest.raises(ValueError, match="odd"):
        list(turns.take([partial(call, 3, False), partial(call, 4, True)]))
    assert ended == ["3", "4"], "the others are given up, not left hanging"
