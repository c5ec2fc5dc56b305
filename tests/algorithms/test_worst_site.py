"""The mixture by hand; at rest the two worst hospitals have the same loss; without a rate it is FedAvg."""

from __future__ import annotations

from math import exp, sqrt
from typing import Any

import numpy as np
import pytest

from aimer2.algorithms.fedavg import FedAvg
from aimer2.algorithms.worst_site import WorstSite
from aimer2.core.errors import BadUpdate


def test_every_round_by_hand(rounds: Any) -> None:
    """q_k ∝ n_k·exp(Σ η_q·F_k), whatever the common level that keeps the numbers small."""
    x, logs, expected = 3.0, [0.0] * 3, [3.0]
    for _ in range(6):
        logs = [kept + 0.05 * site.a / 2 * (x - site.b) ** 2 for kept, site in zip(logs, rounds.hospitals, strict=True)]
        weights = [site.rows * exp(kept) for kept, site in zip(logs, rounds.hospitals, strict=True)]
        after = [site.b + (1 - 0.1 * site.a) ** site.steps * (x - site.b) for site in rounds.hospitals]
        x = sum(q * y for q, y in zip(weights, after, strict=True)) / sum(weights)
        expected.append(x)
    assert rounds.run(WorstSite(mixture_rate=0.05), 6, start=3.0) == pytest.approx(expected, abs=1e-12)


def test_it_rests_where_the_worst_losses_are_equal(rounds: Any) -> None:
    """Of a₁/2·(x − b₁)² and a₂/2·(x − b₂)² the larger is least at x = (√a₁·b₁ + √a₂·b₂)/(√a₁ + √a₂); FedAvg does not go there."""
    rounds.hospitals = [type(rounds.hospitals[0])(a=1.0, b=-2.0, rows=30), type(rounds.hospitals[0])(a=4.0, b=1.0, rows=10)]
    fair = (sqrt(1.0) * -2.0 + sqrt(4.0) * 1.0) / 3.0
    assert rounds.run(WorstSite(mixture_rate=0.02), 1500)[-1] == pytest.approx(fair, abs=1e-6)
    assert abs(rounds.run(FedAvg(), 1500)[-1] - fair) > 0.1


def test_without_a_rate_it_is_fedavg_bit_for_bit(rounds: Any) -> None:
    assert rounds.run(WorstSite(mixture_rate=0.0), 10, start=np.pi) == rounds.run(FedAvg(), 10, start=np.pi)


def test_a_round_asked_anew_moves_the_mixture_once(rounds: Any) -> None:
    method = WorstSite(mixture_rate=0.05)
    state = rounds.step(method, method.init({"x": np.array([3.0])}), 1)
    first = rounds.local(method, state, 1, 2)
    assert dict(rounds.local(method, state, 1, 2).sums) == dict(first.sums)


def test_a_loss_too_large_for_the_rate_is_said_and_not_a_sum_without_end(rounds: Any) -> None:
    """Squared errors of thousands at a rate of 0.5: exp would overflow."""
    method = WorstSite(mixture_rate=0.5)
    with pytest.raises(BadUpdate, match="too large for this mixture_rate"):
        rounds.local(method, method.init({"x": np.array([1e4])}), 1, 2)
