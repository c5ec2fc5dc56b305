"""What is counted of those who look: from the end of a round to whoever was told of it."""

from __future__ import annotations

import pytest
from benchmarks.viewers import delays

TOLD = {1: 10.0, 2: 20.0}


def test_a_later_round_tells_of_the_earlier_ones_too() -> None:
    assert delays(TOLD, [[(10.5, 1), (21.0, 2)], [(23.0, 3)]]) == [0.5, 1.0, 13.0, 3.0]


@pytest.mark.parametrize("seen", [[], [(10.5, 1)]])
def test_a_viewer_who_is_told_nothing_any_more_is_not_left_out(seen: list[tuple[float, int]]) -> None:
    with pytest.raises(RuntimeError, match="never told"):
        delays(TOLD, [[(20.5, 2)], seen])
