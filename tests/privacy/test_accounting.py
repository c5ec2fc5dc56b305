"""Composition, its cache, its own description, and the noise for a given ε."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import numpy as np
import pytest
from scipy.special import ive

from aimer2.core.errors import AimerError, BadInput
from aimer2.privacy import skellam as noise
from aimer2.privacy.accounting import (
    Accountant,
    Spent,
    epsilon,
    epsilon_by_renyi,
    gaussian,
    laplace,
    noise_multiplier_for,
    skellam,
    subsampled_gaussian,
)

EVERY = [gaussian(20, 3), laplace(50), skellam(1e6, 30, 10), subsampled_gaussian(0.01, 1.3, 200)]


@pytest.mark.parametrize("spent", EVERY, ids=lambda spent: spent.kind)
def test_a_ledger_gets_back_what_it_kept(spent: Spent) -> None:
    assert Spent.of_document(json.loads(json.dumps(spent.document()))) == spent


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"kind": "gaussian", "parameters": {"noise_multiplier": 0}, "count": 1},
        {"kind": "gaussian", "parameters": {"noise_multiplier": math.inf}, "count": 1},
        {"kind": "gaussian", "parameters": {"noise_multiplier": math.nan}, "count": 1},
        {"kind": "gaussian", "parameters": {"noise_multiplier": 1}, "count": 0},
        {"kind": "gaussian", "parameters": {"scale": 1}, "count": 1},
        {"kind": "nothing", "parameters": {}, "count": 1},
        {"kind": "subsampled_gaussian", "parameters": {"sampling_rate": 1.1, "noise_multiplier": 1}, "count": 1},
        {"kind": "laplace", "parameters": [1], "count": 1},
    ],
)
def test_what_is_no_mechanism_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Spent.of_document(document)


def test_one_by_one_and_at_once_are_the_same_bits() -> None:
    entries = [EVERY[0], EVERY[1], EVERY[3]]
    accountant = Accountant()
    for entry in entries:
        accountant.add(entry)
    assert accountant.epsilon(1e-6) == epsilon(entries, 1e-6)
    assert Accountant(entries[:2]).epsilon(1e-6, entries[2:]) == epsilon(entries, 1e-6)


def test_asking_does_not_spend() -> None:
    accountant = Accountant([gaussian(10)])
    before = accountant.epsilon(1e-6)
    assert accountant.epsilon(1e-6, [gaussian(1)]) > before + 1
    assert accountant.epsilon(1e-6) == before


def test_equal_gaussians_compose_to_one() -> None:
    assert epsilon([gaussian(10)] * 4, 1e-6) == pytest.approx(epsilon([gaussian(5)], 1e-6), abs=2e-3)


def test_sampling_everybody_is_no_sampling() -> None:
    assert epsilon([subsampled_gaussian(1, 5, 20)], 1e-6) == epsilon([gaussian(5, 20)], 1e-6)


def test_many_steps_that_lose_little_each_do_not_pile_up_rounding() -> None:
    """At steps of 1e-3 alone the answer would be 0.48 and above Rényi's bound."""
    spent = [subsampled_gaussian(0.0007, 7.67, 176_000)]
    assert 0.1 < epsilon(spent, 4e-7) < epsilon_by_renyi(spent, 4e-7) < 0.17


@pytest.mark.parametrize("entry", [laplace(1000), gaussian(3000), gaussian(150)], ids=["laplace", "small", "larger"])
def test_many_entries_that_lose_little_each_do_not_pile_up_rounding(entry: Spent) -> None:
    whole = Spent(entry.kind, entry.parameters, 400)
    assert epsilon([whole], 1e-6) - 1e-3 <= epsilon([entry] * 400, 1e-6) <= epsilon_by_renyi([whole], 1e-6)


def test_two_ways_that_contradict_each_other_give_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the neighbours were of another kind for one of them: a sensitivity of two for one."""
    accountant = Accountant([gaussian(5, 50)])
    monkeypatch.setattr(accountant, "_renyi", accountant._renyi / 4)
    with pytest.raises(AimerError, match="contradict"):
        accountant.epsilon(1e-5)


def test_no_privacy_is_answered_at_once() -> None:
    started = time.perf_counter()
    assert epsilon([gaussian(1e-6)], 1e-5) > 1e9
    assert epsilon([gaussian(1e-6), gaussian(5)], 1e-5) > 1e9
    assert time.perf_counter() - started < 1


def test_a_further_decision_is_quick() -> None:
    """The target is half a second; under load a test allows for more, but composing a hundred anew takes several."""
    entries = [(subsampled_gaussian(0.001 + 1e-4 * i, 1 + 0.01 * i, 100 + i), gaussian(20 + i), laplace(50 + i))[i % 3] for i in range(36)]
    accountant = Accountant(entries)
    started = time.perf_counter()
    assert accountant.epsilon(1e-5, [subsampled_gaussian(0.02, 1.3, 777)]) > accountant.epsilon(1e-5)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(("sampling_rate", "steps"), [(0.01, 1000), (1.0, 50)])
def test_noise_for_a_budget_is_enough_and_not_much_more(sampling_rate: float, steps: int) -> None:
    multiplier = noise_multiplier_for(3.0, 1e-5, sampling_rate, steps)
    assert epsilon([subsampled_gaussian(sampling_rate, multiplier, steps)], 1e-5) <= 3.0
    assert epsilon([subsampled_gaussian(sampling_rate, multiplier * 0.998, steps)], 1e-5) > 3.0


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan])
def test_a_delta_is_a_probability(delta: float) -> None:
    with pytest.raises(BadInput):
        epsilon([gaussian(1)], delta)


def test_skellam_noise_is_gaussian_in_the_limit() -> None:
    """Of a large variance only the first term is left: α Δ²/(2μ), which is Gaussian noise of multiplier √μ/Δ."""
    assert epsilon([skellam(1e10, 2e4, 2e4)], 1e-5) == pytest.approx(epsilon_by_renyi([gaussian(5)], 1e-5), rel=1e-3)
    assert epsilon([skellam(1e10, 2e4, 2e4), gaussian(5)], 1e-5) == pytest.approx(epsilon_by_renyi([gaussian(5, 2)], 1e-5), rel=1e-3)


@pytest.mark.parametrize("variance", [0.5, 4.0, 100.0])
@pytest.mark.parametrize("shift", [1, 3])
@pytest.mark.parametrize("order", [2, 5, 16])
def test_skellam_bound_holds(variance: float, shift: int, order: int) -> None:
    """Against the divergence itself, summed; for one number both norms are its size."""
    k = np.arange(-400, 401)
    probability = np.log(np.maximum(ive(np.abs(k), variance), 1e-300))
    moved = np.log(np.maximum(ive(np.abs(k - shift), variance), 1e-300))
    inside = (probability > -600) & (moved > -600)
    terms = (order * moved - (order - 1) * probability)[inside]
    exact = float(np.logaddexp.reduce(terms)) / (order - 1)
    bound = noise.renyi(order, variance, shift, shift)
    assert exact <= bound
    if variance == 100.0:
        assert bound < 1.1 * exact
