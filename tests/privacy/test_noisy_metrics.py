"""Noisy counts: what one patient changes, how large the noise is, and that without noise they say what the exact ones say."""

from __future__ import annotations

import numpy as np
import pytest

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
        assert other.value == pytest.approx(one.value, abs=0.01 if one.name == "auc" else 0), one.name
        assert other.n == one.n


def test_of_several_classes_too() -> None:
    names, targets = NOISY_METRICS["multiclass"], RNG.integers(0, 3, 500)
    scores = RNG.dirichlet([1, 1, 1], 500)
    exact = figures("multiclass", measure("multiclass", scores, targets, 0.0, names), names)
    assert figures("multiclass", noisy_metrics("multiclass", scores, targets, names, TINY, SecureBytes()), names) == exact


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
    told = noisy_metrics("binary", SCORES[:600], TARGETS[:600], names, 2.0, SecureBytes())
    mended = plausible(told)
    assert min(float(table.min()) for table in mended.values()) >= 0
    assert mended["binned_scores"].sum(axis=1) == pytest.approx(told["binned_scores"].sum(axis=1))
    exact = figures("binary", measure("binary", SCORES[:600], TARGETS[:600], 0.0, names), names)
    for one, other in zip(exact, figures("binary", mended, names), strict=True):
        assert other.value == pytest.approx(one.value, abs=0.12)


def test_nothing_but_noise_has_no_figure() -> None:
    told = {"confusion": np.array([[-5, -2], [-1, -4]]), "binned_scores": np.full((2, 1024), -1), "count": np.array([-12])}
    assert [figure.value for figure in figures("binary", plausible(told), ["accuracy", "auc"])] == [None, None]
