"""Noisy counts: what one patient changes, how large the noise is, and that without noise they say what the exact ones say."""

from __future__ import annotations

import numpy as np
import pytest

from aimer2.core.errors import BadInput
from aimer2.core.random import SecureBytes
from aimer2.metrics.binned_scores import histogram
from aimer2.metrics.figures import available, figures, measure
from aimer2.privacy.noisy_metrics import NOISY_METRICS, _few, noisy_metrics, plausible

RNG = np.random.default_rng(0)
TARGETS = RNG.integers(0, 2, 4000)
SCORES = 1 / (1 + np.exp(-(RNG.normal(size=4000) * 1.5 + 2 * TARGETS - 1)))
TINY = 1e-9


def test_with_hardly_any_noise_every_metric_is_near_the_exact_one() -> None:
    names = NOISY_METRICS["binary"]
    exact = figures("binary", measure("binary", SCORES, TARGETS, 0.0, names), names)
    told = figures("binary", noisy_metrics("binary", SCORES, TARGETS, names, TINY, SecureBytes()), names)
    for one, other in zip(exact, told, strict=True):
        assert other.value == pytest.approx(one.value, abs={"auc": 0.01, "brier": 1e-9}.get(one.name, 0)), one.name
        assert other.n == one.n


def test_of_several_classes_too() -> None:
    names, targets = NOISY_METRICS["multiclass"], RNG.integers(0, 3, 500)
    scores = RNG.dirichlet([1, 1, 1], 500)
    exact = figures("multiclass", measure("multiclass", scores, targets, 0.0, names), names)
    told = figures("multiclass", noisy_metrics("multiclass", scores, targets, names, TINY, SecureBytes()), names)
    assert [figure.value for figure in told] == pytest.approx([figure.value for figure in exact])


def test_every_metric_told_is_one_that_there_is() -> None:
    assert all(set(names) <= set(available(kind)) for kind, names in NOISY_METRICS.items())  # type: ignore[arg-type]


@pytest.mark.parametrize("score", [0.0, 0.02, 0.4999, 0.5, 0.77, 1.0])
def test_a_patient_changes_one_count_by_one(score: float) -> None:
    changed = _few(histogram(np.array([score]), np.array([True])))
    assert changed.shape == (2, 10)
    assert (np.abs(changed).sum(), np.square(changed).sum()) == (1, 1)
    # One half is an edge of the few bins too, so that they and the confusion matrix tell of the same call.
    assert (changed[1, 5:].sum() == 1) == (score >= 0.5)


def test_the_noise_has_the_stated_deviation_and_covers_both_tables() -> None:
    source = SecureBytes()
    drawn = [noisy_metrics("binary", SCORES, TARGETS, ["accuracy"], 7.0, source)["confusion"] for _ in range(500)]
    assert np.std(drawn, axis=0) == pytest.approx(7.0, rel=0.15)
    drawn = [noisy_metrics("binary", SCORES, TARGETS, ["accuracy", "auc"], 7.0, source)["confusion"] for _ in range(500)]
    assert np.std(drawn, axis=0) == pytest.approx(7.0 * 2**0.5, rel=0.15)


def test_nothing_but_noisy_counts_is_told() -> None:
    told = noisy_metrics("binary", SCORES, TARGETS, ["accuracy", "auc"], 50.0, SecureBytes())
    assert told.keys() == {"confusion", "binned_scores", "count"}
    assert told["count"][0] == told["confusion"].sum() != len(TARGETS)


def test_counts_below_zero_are_mended_without_adding_patients() -> None:
    names = ["accuracy", "auc"]
    told = noisy_metrics("binary", SCORES[:600], TARGETS[:600], names, 2.0, SecureBytes(bytes(32)))
    mended = plausible(told)
    assert min(float(table.min()) for table in mended.values()) >= 0
    assert mended["binned_scores"].sum(axis=1) == pytest.approx(told["binned_scores"].sum(axis=1))
    exact = figures("binary", measure("binary", SCORES[:600], TARGETS[:600], 0.0, names), names)
    for one, other in zip(exact, figures("binary", mended, names), strict=True):
        assert other.value == pytest.approx(one.value, abs=0.12)


def test_nothing_but_noise_has_no_figure() -> None:
    told = {"confusion": np.array([[-5, -2], [-1, -4]]), "binned_scores": np.full((2, 1024), -1), "count": np.array([-12])}
    assert [figure.value for figure in figures("binary", plausible(told), ["accuracy", "auc"])] == [None, None]


PREDICTED, TRUE = RNG.normal(50, 12, 3000), RNG.normal(50, 10, 3000)
SPAN = (0.0, 100.0)
REGRESSION = ("mean_error", "mae", "mse", "rmse", "r2")


def told_of(names: tuple[str, ...], noise: float, predicted: np.ndarray = PREDICTED, true: np.ndarray = TRUE) -> dict[str, np.ndarray]:
    return noisy_metrics("regression", predicted, true, names, noise, SecureBytes(), span=SPAN)


def test_of_a_regression_within_its_range_too() -> None:
    predicted, true = np.clip(PREDICTED, *SPAN), np.clip(TRUE, *SPAN)
    exact = figures("regression", measure("regression", predicted, true, 0.0, REGRESSION), REGRESSION)
    told = figures("regression", plausible(told_of(REGRESSION, TINY)), REGRESSION)
    assert [figure.value for figure in told] == pytest.approx([figure.value for figure in exact], rel=1e-5)
    assert {figure.n for figure in told} == {3000}


@pytest.mark.parametrize("patient", [(-1e9, 1e9), (1e9, -1e9), (0.0, 100.0), (50.0, 50.0), (120.0, 37.0)])
def test_one_patient_of_a_regression_moves_no_more_than_the_noise_is_sized_for(patient: tuple[float, float]) -> None:
    """Six numbers, each in units of its bound: the norm of what any patient changes is at most √6."""
    without = told_of(REGRESSION, TINY)
    found = told_of(REGRESSION, TINY, np.append(PREDICTED, patient[0]), np.append(TRUE, patient[1]))
    units = {"count": np.ones(1), "errors": np.array([100.0, 100.0, 1e4]), "targets": np.array([50.0, 2500.0])}
    moved = np.concatenate([(found[name] - without[name]) / unit for name, unit in units.items()])
    assert (np.abs(moved) <= 1 + 1e-6).all()
    assert np.linalg.norm(moved) <= 6**0.5 + 1e-6


def test_the_noise_on_sums_is_as_many_times_the_bound_as_that_on_counts_of_patients() -> None:
    drawn = [told_of(("rmse",), 7.0) for _ in range(600)]
    deviation = 7.0 * 2**0.5
    assert np.std([told["count"][0] for told in drawn]) == pytest.approx(deviation, rel=0.15)
    assert np.std([told["errors"][2] for told in drawn]) == pytest.approx(deviation * 1e4, rel=0.15)
    assert {told["errors"][place] for told in drawn for place in (0, 1)} == {0.0}, "what no metric needs is not told"


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_a_brier_score_has_noise_beside_the_counts(kind: str) -> None:
    """Also where a probability is a little beside 1, as half precision has it."""
    scores = np.array([1.0 + 9e-7]) if kind == "binary" else np.array([[1.0, 0.009, 0.0]])
    targets = np.array([0]) if kind == "binary" else np.array([2])
    largest = 1.0 if kind == "binary" else 2.0
    alone = noisy_metrics(kind, scores, targets, ["brier"], TINY, SecureBytes())  # type: ignore[arg-type]
    assert alone["brier"][0] == pytest.approx(largest)
    assert alone["brier"][0] <= largest * (1 + 1e-7)
    drawn = [noisy_metrics(kind, scores, targets, ["brier", "accuracy"], 7.0, SecureBytes())["brier"][0] for _ in range(600)]  # type: ignore[arg-type]
    assert np.std(drawn) == pytest.approx(7.0 * 2**0.5 * largest, rel=0.15)


def test_what_has_no_bound_gets_no_noise() -> None:
    with pytest.raises(BadInput):
        noisy_metrics("binary", SCORES, TARGETS, ["log_loss"], 7.0, SecureBytes())
    with pytest.raises(BadInput):
        noisy_metrics("regression", PREDICTED, TRUE, ["rmse"], 7.0, SecureBytes())
