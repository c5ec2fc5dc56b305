"""A whole site's part: never longer in steps than is accounted, under its share of the noise, and a clip norm that finds its quantile."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ive

from aimer2.core import tree
from aimer2.core.errors import BadInput, BadUpdate
from aimer2.core.random import SecureBytes
from aimer2.privacy import accounting
from aimer2.privacy.site_level import COUNT_SHARE, LARGEST_SIZE, LEAST_STEPS, Grid, SitePart, grid, next_clip_norm
from aimer2.privacy.site_terms import SiteTerms, mechanism
from aimer2.privacy.skellam import largest, renyi, skellam

KEY = bytes(range(32))


def terms(noise: float, rounds: int = 1) -> SiteTerms:
    return SiteTerms(noise, 1.0, None, 1e-5, rounds, None)


@pytest.mark.parametrize(("noise", "rounds", "gaussian"), [(1.0, 1, 4.7285), (5.0, 50, 7.0774), (10.0, 100, 4.7285)])
def test_known_answers(noise: float, rounds: int, gaussian: float) -> None:
    """Those of the Gaussian mechanism by Rényi's bound, and hardly more: what whole orders and whole numbers cost."""
    assert gaussian <= terms(noise, rounds).epsilon(rounds) <= gaussian * 1.006


@pytest.mark.parametrize("order", [2, 5, 16])
@pytest.mark.parametrize(("variance", "shift"), [(50.0, 3), (400.0, 20), (10_000.0, 100)])
def test_the_bound_holds_for_the_distribution_itself_and_is_near(order: int, variance: float, shift: int) -> None:
    """Theorem 3.5 of Agarwal et al. against the divergence summed up from the probabilities."""
    far = int(order * shift + 12 * math.sqrt(variance))
    k = np.arange(-far, far)
    here, there = np.log(ive(np.abs(k), variance)), np.log(ive(np.abs(k - shift), variance))
    exact = np.logaddexp.reduce(order * there - (order - 1) * here) / (order - 1)
    assert exact <= renyi(order, variance, shift, shift) <= 1.4 * exact


def test_a_patient_is_charged_for_twice_the_distance() -> None:
    """Two parts of a site may lie two clip norms apart: as with half the noise."""
    for noise, rounds in ((4.0, 1), (20.0, 30)):
        assert terms(noise, rounds).epsilon(rounds, of="patient") == pytest.approx(terms(noise / 2, rounds).epsilon(rounds), rel=1e-6)


@pytest.mark.parametrize("sites", [3, 10, 200])
@pytest.mark.parametrize("noise", [0.3, 5.0, 60.0])
@pytest.mark.parametrize("size", [1, 10**6, 25 * 10**6])
def test_no_finer_grid_costs_more_than_is_counted(sites: int, noise: float, size: int) -> None:
    honest = max(1, sites // 3)
    found = grid(sites, honest, noise, size)
    variance, steps = found.variance * honest, found.steps
    assert math.sqrt(variance) == pytest.approx(noise * steps)
    counted = mechanism(noise).parameters
    for order in (2, 8, 64, 512):
        true = renyi(order, variance, min(math.sqrt(size) * steps, steps**2), steps)
        assert true <= renyi(order, counted["variance"], counted["l1"], counted["l2"])
    assert counted["l1"] >= math.sqrt(LARGEST_SIZE) * LEAST_STEPS


@given(st.integers(3, 300), st.floats(0.05, 500), st.integers(1, LARGEST_SIZE))
def test_words_of_all_sites_never_wrap(sites: int, noise: float, size: int) -> None:
    found = grid(sites, max(1, sites // 3), noise, size)
    assert sites * (found.steps + largest(found.variance)) < 2 ** (found.bits - 1)
    assert found.steps >= LEAST_STEPS


@pytest.mark.parametrize(("noise", "size"), [(0.0, 5), (math.inf, 5), (1e9, 5), (1.0, 0), (1.0, LARGEST_SIZE + 1)])
def test_what_no_grid_is_fine_enough_for_is_refused(noise: float, size: int) -> None:
    with pytest.raises(BadInput):
        grid(10, 4, noise, size)


PARTS = st.integers(0, 2**32 - 1)


@given(PARTS, st.integers(1, 3000), st.floats(-12, 12), st.booleans(), st.booleans(), st.sampled_from([np.float32, np.float64]))
def test_rounded_and_with_the_count_no_part_is_longer_than_all_steps(
    seed: int, size: int, magnitude: float, even: bool, counts: bool, kind: type[np.floating]
) -> None:
    """Counted in whole numbers, so exactly; of a coarse grid, where rounding is large."""
    rng = np.random.default_rng(seed)
    values = np.ones(size) if even else rng.normal(size=size)
    part = {"a": (values * 10.0**magnitude).astype(kind)}
    place = SitePart(Grid(max(64, 8 * math.isqrt(size)), 1.0, 32), 0.7, size, counts)
    steps, within = place.rounded(part, float(rng.uniform(0.5, 100)))
    whole = [int(value) for value in tree.load(steps["a"])]
    assert sum(value * value for value in whole) + place.count_steps**2 <= place.grid.steps**2
    assert sum(map(abs, whole)) ** 2 <= size * place.grid.steps**2
    if not within:
        assert math.sqrt(sum(value * value for value in whole)) >= 0.8 * place.grid.steps


def test_a_short_part_keeps_its_values_and_a_long_one_its_direction() -> None:
    place = SitePart(grid(3, 2, 0.01, 3), 2.0, 3)
    given = {"w": np.array([0.6, -1.2, 0.3], np.float32)}
    steps, within = place.rounded(given, 1.0)
    np.testing.assert_allclose(tree.load(place.read(steps)["w"]), given["w"], atol=1e-5)
    long, beyond = place.rounded({"w": given["w"] * 500}, 50.0)
    np.testing.assert_allclose(tree.load(place.read(long)["w"]), given["w"] * 2 / np.linalg.norm(given["w"]), rtol=1e-4)
    assert within
    assert not beyond


@pytest.mark.parametrize(
    ("part", "weight"),
    [
        ({"w": np.array([1.0, np.nan])}, 1.0),
        ({"w": np.array([1.0, 2.0])}, 0.0),
        ({"w": np.array([1.0, 2.0])}, math.nan),
        ({"w": np.array([1, 2])}, 1.0),
        ({"w": np.ones(3)}, 1.0),
    ],
)
def test_what_cannot_be_measured_does_not_leave(part: dict[str, np.ndarray], weight: float) -> None:
    with pytest.raises(BadUpdate):
        SitePart(grid(3, 2, 1.0, 2), 1.0, 2).noisy(part, weight, SecureBytes(KEY))


def test_words_with_noise_are_read_once() -> None:
    words, _ = SitePart(grid(3, 2, 1.0, 8), 1.0, 8).noisy({"w": np.ones(8)}, 1.0, SecureBytes(KEY))
    words["w"].read(0, 4)  # type: ignore[union-attr]
    with pytest.raises(AssertionError):
        words["w"].read(0, 4)  # type: ignore[union-attr]


def test_the_noise_is_split_between_update_and_count_as_in_the_paper() -> None:
    """Theorem 1 of Andrew et al. 2021: z_Δ = (z⁻² − (2σ_b)⁻²)^(−1/2); with σ_b = 5 and z = 1, 1.0050."""
    noise = 3.0
    place = SitePart(grid(50, 18, noise, 100), 1.0, 100, counts=True)
    deviation = math.sqrt(place.grid.variance * 18)
    sigma_b = deviation / (2 * place.count_steps)
    of_update = deviation / math.sqrt(place.grid.steps**2 - place.count_steps**2)
    assert of_update == pytest.approx((noise**-2 - (2 * sigma_b) ** -2) ** -0.5, rel=1e-6)
    assert sigma_b == pytest.approx(noise / (2 * math.sqrt(COUNT_SHARE)), rel=1e-4)


def followed(quantile: float, noise: float, first: float) -> float:
    """The clip norm after sixty rounds of 50 sites whose changes have lognormal lengths, and of whose words only the sum is known."""
    rng, source, clip_norm = np.random.default_rng(3), SecureBytes(KEY), first
    late = []
    for _ in range(60):
        place = SitePart(grid(50, 17, noise, 1), clip_norm, 1, counts=True)
        told = sum(place.noisy({"w": np.array([one])}, 1.0, source)[1].astype(np.int64) for one in rng.lognormal(0.0, 0.5, 50))
        clip_norm = next_clip_norm(clip_norm, first, place.share_within(told, 50), quantile)
        late.append(clip_norm)
    return float(np.exp(np.mean(np.log(late[-20:]))))


@pytest.mark.parametrize(("quantile", "first", "noise", "near"), [(0.5, 5.0, 0.1, 0.06), (0.8, 0.3, 0.1, 0.06), (0.5, 5.0, 3.0, 0.25)])
def test_the_clip_norm_finds_the_quantile(quantile: float, first: float, noise: float, near: float) -> None:
    """With noise 3 the count of 50 sites has a standard deviation of 8."""
    true = math.exp(0.5 * {0.5: 0.0, 0.8: 0.8416}[quantile])
    assert followed(quantile, noise, first) == pytest.approx(true, rel=near)


def test_noise_moves_the_clip_norm_no_more_than_data_could() -> None:
    assert next_clip_norm(1.0, 1.0, 0.0, 0.5) == pytest.approx(math.exp(0.1))
    assert next_clip_norm(1.0, 2.0**40, 1.0, 0.5) == 1.0
    place = SitePart(grid(3, 2, 50.0, 1), 1.0, 1, counts=True)
    assert {place.share_within(np.array([sign * 2**30]), 3) for sign in (-1, 1)} == {0.0, 1.0}


def test_the_sum_of_shares_of_honest_sites_has_the_stated_noise() -> None:
    place = SitePart(grid(10, 4, 2.5, 200_000), 1.0, 200_000)
    total = sum(tree.load(place.noisy({"w": np.zeros(200_000)}, 1.0, SecureBytes())[0]["w"]).astype(np.int64) for _ in range(4))
    assert np.std(np.asarray(total)) / place.grid.steps == pytest.approx(2.5, rel=0.01)
    assert np.std(skellam(SecureBytes(), place.grid.variance, 200_000)) / place.grid.steps == pytest.approx(1.25, rel=0.01)


def test_the_accounting_knows_the_mechanism() -> None:
    assert accounting.Spent.of_document(mechanism(3.0, 7).document()) == mechanism(3.0, 7)
