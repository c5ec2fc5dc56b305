from __future__ import annotations

import pytest

from aimer2.learners.schedules import SCHEDULES, factor


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_starts_at_the_studys_rate_and_never_rises_or_reaches_zero(schedule: str) -> None:
    factors = [factor(schedule, round_number, 20) for round_number in range(1, 21)]
    assert factors[0] == 1
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] > 0


def test_known_values() -> None:
    assert [factor("step", r, 8) for r in range(1, 9)] == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert factor("cosine", 3, 4) == pytest.approx(0.5)
    assert factor("cosine", 2, 4) == pytest.approx(0.5 * (1 + 2**-0.5))


def test_one_round_trains_at_the_full_rate() -> None:
    assert [factor(schedule, 1, 1) for schedule in SCHEDULES] == [1, 1, 1]
