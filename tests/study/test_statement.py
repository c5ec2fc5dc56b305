"""The record tells what was spent, not what was planned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from aimer2.core.study import Study
from aimer2.privacy.accounting import epsilon, gaussian, subsampled_gaussian
from aimer2.study.events import RoundStarted
from aimer2.study.statement import differential_privacy, guarantee

TERMS = {"noise_multiplier": 1.2, "delta": 1e-5, "clip_norm": 1.0, "sampling_rate": 0.05}


@pytest.fixture
def private(study: Callable[..., Study]) -> Study:
    return study(training={"local_steps": 4}, model={"name": "logistic"}, method={"rounds": 3}, privacy={"differential_privacy": TERMS})


def started(stage: Any, number: int, *sites: str, attempt: int = 1) -> RoundStarted:
    return RoundStarted(time=0, stage=stage, round_number=number, rounds=3, attempt=attempt, sites=sites)


def test_rounds_that_were_asked_count_once_more_where_they_were_asked_again(private: Study) -> None:
    events = [started("train", 1, "north", "south"), started("train", 2, "north"), started("train", 2, "north", "south", attempt=2)]
    stated = differential_privacy(private, [*events, started("final", 1, "north", "south", attempt=2)], 2)
    assert stated is not None
    # North was asked three times, south twice; what holds for every patient is what holds for north's.
    assert stated["rounds"] == 3
    assert stated["epsilon"] == pytest.approx(epsilon([subsampled_gaussian(0.05, 1.2, 12), gaussian(5.0)], 1e-5), abs=1e-4)
    assert stated["epsilon"] <= stated["epsilon_by_renyi"]


def test_a_round_begun_twice_by_a_restart_counts_once(private: Study) -> None:
    once, twice = (differential_privacy(private, [started("train", 1, "north")] * times, 2) for times in (1, 2))
    assert once == twice


def test_a_study_that_ended_before_its_first_round_has_spent_nothing(private: Study) -> None:
    stated = differential_privacy(private, [], 2)
    assert stated is not None
    assert stated["epsilon"] == 0


def test_whose_word_it_is(private: Study) -> None:
    own = differential_privacy(private, [started("train", 1, "north")], 2)
    fields = private.model_dump() | {"model": {"code": "model.py"}, "privacy": {"differential_privacy": TERMS | {"asserted": True}}}
    brought = differential_privacy(Study(**fields), [started("train", 1, "north")], 2)
    assert own is not None and brought is not None
    assert own["word"].startswith("enforced")
    assert brought["word"].startswith("asserted by the researcher")
    assert "asserts" in guarantee(brought)
    assert "No formal privacy guarantee" in guarantee(None)


def test_nothing_is_stated_where_nothing_was_asked(study: Callable[..., Study]) -> None:
    assert differential_privacy(study(), [], 2) is None
