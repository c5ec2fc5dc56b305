"""ε at the points that the literature and other accountants agree on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from aimer2.privacy.accounting import Spent, epsilon, epsilon_by_renyi, gaussian, laplace, subsampled_gaussian


@final
@dataclass(frozen=True, slots=True)
class Point:
    spent: list[Spent]
    delta: float
    by_renyi: float
    by_losses: float


# dp-accounting 0.6.0, add or remove one; privacy loss distributions at steps of 1e-4. A is also 5.1926 by the PRV accountant (Gopi et al. 2021) and
# 5.632 by Opacus' Rényi accountant; B is the MNIST example of Abadi et al. 2016 with today's bounds.
POINTS = {
    "A": Point([subsampled_gaussian(0.01, 1.1, 10_000)], 1e-5, 5.6320, 5.1926),
    "B": Point([subsampled_gaussian(256 / 60_000, 1.1, 14_063)], 1e-5, 2.5967, 2.3818),
    "C": Point([subsampled_gaussian(0.04, 0.8, 500)], 1e-6, 11.8917, 10.7714),
    "D": Point([gaussian(1)], 1e-5, 4.7285, 4.3772),
    "E": Point([gaussian(5, 50)], 1e-5, 7.0774, 6.5730),
    "F": Point([gaussian(10, 100)], 1e-5, 4.7285, 4.3772),
    "G": Point([subsampled_gaussian(0.2, 2, 100)], 1e-5, 5.4988, 5.0232),
    "H": Point([subsampled_gaussian(0.001, 0.6, 5000)], 1e-6, 3.6274, 2.7484),
    "I": Point([subsampled_gaussian(0.01, 1.1, 10_000), subsampled_gaussian(0.04, 0.8, 500), laplace(10)], 1e-5, 12.4028, 11.2194),
    "J": Point([subsampled_gaussian(0.01, 1.1, 1000)], 1e-5, 1.7118, 1.5154),
}


@pytest.mark.parametrize("name", POINTS)
def test_known_points(name: str) -> None:
    point = POINTS[name]
    assert epsilon(point.spent, point.delta) == pytest.approx(point.by_losses, abs=0.01)
    assert epsilon_by_renyi(point.spent, point.delta) == pytest.approx(point.by_renyi, abs=0.01)


@pytest.mark.parametrize("name", ["A", "D"])
def test_finer_steps_come_closer(name: str) -> None:
    point = POINTS[name]
    assert epsilon(point.spent, point.delta, interval=1e-4) == pytest.approx(point.by_losses, abs=1e-4)


@pytest.mark.parametrize(("rho", "expected"), [(0.1, 1.914), (0.5, 4.729), (1.0, 7.077)])
def test_zero_concentrated_privacy(rho: float, expected: float) -> None:
    """Gaussian noise has ρ = 1 / (2σ²); the conversion of Canonne, Kamath and Steinke 2020."""
    assert epsilon_by_renyi([gaussian(math.sqrt(0.5 / rho))], 1e-5) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("noise_multiplier", [0.7, 2.0, 40.0, 1000.0])
def test_gaussian_noise_in_closed_form(noise_multiplier: float) -> None:
    """Balle and Wang 2018, theorem 8. At a thousand, a loss is a tenth of the accountant's step."""

    def gap(value: float) -> float:
        half, scaled = 0.5 / noise_multiplier, value * noise_multiplier
        return float(norm.cdf(half - scaled) - math.exp(value) * norm.cdf(-half - scaled)) - 1e-5

    assert epsilon([gaussian(noise_multiplier)], 1e-5) == pytest.approx(brentq(gap, 0, 100), abs=2e-3)


@pytest.mark.parametrize(("sums", "noise"), [(20, (16.7, 6.2, 2.7)), (50, (26.4, 9.8, 4.2)), (100, (37.3, 13.9, 6.0))])
def test_noise_that_a_whole_site_takes(sums: int, noise: tuple[float, ...]) -> None:
    """Of as many sums for ε = 1, 3, 8, by exact Gaussian privacy (Dong, Roth, Su 2022); the noise is told to one decimal."""
    assert [epsilon([gaussian(one, sums)], 1e-5) for one in noise] == pytest.approx([1, 3, 8], rel=0.015)


def test_gaussian_noise_of_ten_by_zero_concentrated_privacy() -> None:
    """ρ = 0.005, by the conversion of OpenDP."""
    assert epsilon_by_renyi([gaussian(10)], 1e-6) == pytest.approx(0.42995, abs=1e-4)


def test_laplace_noise_is_pure() -> None:
    assert epsilon([laplace(10)], 1e-9) == pytest.approx(0.1, abs=2e-3)
    assert epsilon([laplace(1000)], 1e-9) == pytest.approx(0.001, abs=2e-3)
