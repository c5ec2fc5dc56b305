"""Concordance against its definition and lifelines' number, weights for censoring against Kaplan-Meier, a Brier score by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aimer2.metrics import survival
from aimer2.metrics.figures import figures, measure
from aimer2.metrics.survival import Timeline

Array = NDArray[Any]


def pairs(risk: Array, time: Array, event: Array) -> tuple[float, float]:
    """Comparable and concordant pairs, by the definition."""
    comparable = concordant = 0.0
    for i in range(len(time)):
        for j in range(len(time)):
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                comparable += 1
                concordant += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return comparable, concordant


def drawn(seed: int, n: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    targets = np.stack((rng.integers(0, 8, n), rng.integers(0, 2, n)), axis=1).astype(np.float64)
    return rng.integers(-3, 3, n).astype(np.float64), targets


@given(st.integers(0, 10_000), st.integers(0, 25))
def test_pairs_are_those_of_the_definition_with_ties_in_times_and_risks(seed: int, n: int) -> None:
    risk, targets = drawn(seed, n)
    sums = survival.pair_sums(risk, targets, survival.NO_TIMELINE)
    assert tuple(sums[:2]) == pairs(risk, targets[:, 0], targets[:, 1])


def test_the_number_of_lifelines() -> None:
    """lifelines 0.30.3: ``concordance_index(time, -risk, event)`` of these patients."""
    risk, targets = drawn(3, 60)
    (figure,) = figures("survival", measure("survival", risk, targets, 0.0, ["concordance"]), ["concordance"])
    assert figure.value == pytest.approx(LIFELINES, abs=1e-12)


LIFELINES = 0.5115257958287596


def test_pairs_in_pieces_are_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    risk, targets = drawn(1, 50)
    whole = survival.pair_sums(risk, targets, survival.NO_TIMELINE)
    monkeypatch.setattr(survival, "PAIRS_AT_A_TIME", 120)
    np.testing.assert_array_equal(survival.pair_sums(risk, targets, survival.NO_TIMELINE), whole)


def test_pairs_of_two_sites_are_added_and_none_is_made_between_them() -> None:
    sites = [drawn(seed, 30) for seed in (1, 2)]
    total = sum(measure("survival", *site, 0.0, ["concordance"])["pairs"] for site in sites)
    exact = np.sum([pairs(risk, targets[:, 0], targets[:, 1]) for risk, targets in sites], axis=0)
    np.testing.assert_array_equal(np.asarray(total)[:2], exact)
    (figure,) = figures("survival", {"pairs": np.asarray(total), "count": np.array([60])}, ["concordance"])
    assert figure.value == exact[1] / exact[0]


def test_the_interval_of_the_concordance_holds_the_truth_as_often_as_it_says() -> None:
    """Exponential times with hazard exp(x) and risk x: C is E[1/(1 + exp(-|x - x'|))], here by drawing."""
    rng = np.random.default_rng(0)
    distance = np.abs(rng.normal(size=200_000) - rng.normal(size=200_000))
    truth, held = float((1 / (1 + np.exp(-distance))).mean()), 0
    for _ in range(300):
        x = rng.normal(size=80)
        targets = np.stack((rng.exponential(np.exp(-x)), np.ones(80)), axis=1)
        (figure,) = figures("survival", measure("survival", x, targets, 0.0, ["concordance"]), ["concordance"])
        assert figure.low is not None and figure.high is not None
        held += figure.low <= truth <= figure.high
    assert 0.91 <= held / 300 <= 0.98


def test_risks_of_survival_curves_are_higher_where_less_time_is_expected() -> None:
    timeline = Timeline((1.0, 3.0))
    # expected times until 3: (1 + .5)/2 + 2·(.5 + .25)/2 = 1.5; the second lives longer
    np.testing.assert_allclose(survival.risks(np.array([[0.5, 0.25], [0.9, 0.8]]), timeline), [-1.5, -(0.95 + 1.7)])


def kaplan_meier(time: Array, event: Array, at: float) -> float:
    alive = 1.0
    for one in sorted(set(time[event == 1])):
        if one <= at:
            alive *= 1 - ((time == one) & (event == 1)).sum() / (time >= one).sum()
    return alive


@given(st.integers(0, 10_000))
def test_weighted_events_are_the_risk_of_kaplan_meier(seed: int) -> None:
    _, targets = drawn(seed, 40)
    time, event = targets.T
    for horizon in (1.0, 3.0, 6.0):
        weight = survival.weights(targets, horizon)
        assert weight is not None
        assert (weight * (time <= horizon)).sum() / 40 == pytest.approx(1 - kaplan_meier(time, event, horizon))
        assert weight.sum() / 40 == pytest.approx(1.0)


def test_the_brier_score_by_hand() -> None:
    """Four patients: events at 1 and 3, one censored at 2, one alive at 5; horizon 4. G is 1 until 2, then 1 − 1/3 = 2/3.
    Σ = (0.3 − 0)² + (0.4 − 0)²/(2/3) + (0.9 − 1)²/(2/3) = 0.09 + 0.24 + 0.015."""
    targets = np.array([[1.0, 1], [2, 0], [3, 1], [5, 0]])
    scores = np.array([[0.3], [0.5], [0.4], [0.9]])
    (figure,) = figures("survival", measure("survival", scores, targets, 0.0, ["brier"], timeline=Timeline((4.0,), (4.0,))), ["brier"], ["4"])
    assert (figure.name, figure.n) == ("brier 4", 4)
    assert figure.value == pytest.approx(0.345 / 4)


def test_risks_that_are_right_are_calibrated() -> None:
    rng = np.random.default_rng(2)
    hazard = np.exp(rng.normal(size=4000))
    time, censored = rng.exponential(1 / hazard), rng.exponential(1.5, 4000)
    targets = np.stack((np.minimum(time, censored), time <= censored), axis=1)
    names, timeline = ["calibration_in_the_large", "calibration_error"], Timeline((0.5,), (0.5,))
    right, error = figures("survival", measure("survival", np.exp(-0.5 * hazard)[:, None], targets, 0.0, names, timeline=timeline), names)
    assert abs(right.value or 1) < 0.015
    assert (error.value or 1) < 0.03
    low, _ = figures("survival", measure("survival", np.exp(-0.25 * hazard)[:, None], targets, 0.0, names, timeline=timeline), names)
    assert (low.value or 0) > 0.1


def test_a_site_that_is_not_followed_to_a_horizon_says_nothing_about_it() -> None:
    targets = np.array([[1.0, 1], [2, 0]])
    sums = measure("survival", np.full((2, 1), 0.5), targets, 0.0, ["brier", "calibration_error"], timeline=Timeline((3.0,), (3.0,)))
    assert not sums["brier"].any() and not sums["calibration"].any()
    assert {figure.note for figure in figures("survival", sums, ["brier", "calibration_error"])} == {"no site has follow-up to this horizon"}
    # all had the event: everything is known at any later time
    assert survival.weights(np.array([[1.0, 1], [2, 1]]), 3.0) is not None
