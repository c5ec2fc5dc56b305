from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimer2.core.errors import BadData, BadUpdate
from aimer2.metrics.figures import figures, measure, summed

NAMES = ["dice", "dice_by_class", "iou", "iou_by_class", "image_dice", "image_dice_by_class", "pixel_accuracy"]


def told(called: np.ndarray, true: np.ndarray, classes: int = 2) -> dict[str, float | None]:
    sums = measure("segmentation", scores(called, classes), true, 0.0, NAMES)
    return {figure.name: figure.value for figure in figures("segmentation", sums, NAMES, [f"c{k}" for k in range(classes)])}


def scores(called: np.ndarray, classes: int) -> np.ndarray:
    """Probabilities of which the largest is that of the called class."""
    return np.moveaxis(np.where(np.arange(classes) == called[..., None], 0.6, 0.4 / (classes - 1)), 3, 1)


def test_known_answers() -> None:
    """Two images of 2×2: in the first one of two true pixels is found and one is false; in the second nothing is there, and nothing is called."""
    true = np.array([[[1, 1], [0, 0]], [[0, 0], [0, 0]]])
    called = np.array([[[1, 0], [1, 0]], [[0, 0], [0, 0]]])
    found = told(called, true)
    assert found["dice"] == found["dice_by_class c1"] == pytest.approx(2 * 1 / (2 + 2))
    assert found["iou"] == pytest.approx(1 / 3)
    assert found["dice_by_class c0"] == pytest.approx(2 * 5 / 12)
    assert found["image_dice"] == pytest.approx(0.5), "an image without the class says nothing of it"
    assert found["image_dice_by_class c0"] == pytest.approx((0.5 + 1) / 2)
    assert found["pixel_accuracy"] == pytest.approx(6 / 8)


def test_large_findings_weigh_more_in_the_pool_than_per_image() -> None:
    true, called = np.zeros((2, 2, 8, 8), np.int64)
    true[0, :4], called[0, :4] = 1, 1
    true[1, 0, 0] = 1
    found = told(called, true)
    assert found["dice"] == pytest.approx(2 * 32 / (32 + 33))
    assert found["image_dice"] == pytest.approx(0.5)


CASE = st.integers(0, 10_000)


@given(CASE)
def test_sums_of_parts_are_those_of_the_whole_and_follow_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true, called = rng.integers(0, 3, (2, 5, 4, 3))
    parts = [measure("segmentation", scores(called[rows], 3), true[rows], 1.0, NAMES) for rows in (slice(0, 2), slice(2, 5))]
    whole = measure("segmentation", scores(called, 3), true, 2.0, NAMES)
    for key, leaf in summed(parts).items():
        assert leaf == pytest.approx(whole[key])
    found = told(called, true, 3)
    for k in (1, 2):
        mine, theirs = called == k, true == k
        if mine.any() or theirs.any():
            assert found[f"dice_by_class c{k}"] == pytest.approx(2 * (mine & theirs).sum() / (mine.sum() + theirs.sum()))
            assert found[f"iou_by_class c{k}"] == pytest.approx((mine & theirs).sum() / (mine | theirs).sum())


def test_a_class_that_is_nowhere_is_undefined_and_counts_are_of_images() -> None:
    true = np.zeros((3, 4, 4), np.int64)
    sums = measure("segmentation", scores(true, 2), true, 0.0, NAMES)
    found = {figure.name: figure for figure in figures("segmentation", sums, NAMES, ["a", "b"])}
    assert found["dice"].value is None and "no record" in found["dice"].note
    assert found["dice_by_class a"].value == 1 and found["dice_by_class a"].n == 3
    none = measure("segmentation", np.empty((0, 2, 4, 4)), np.empty((0, 4, 4), np.int64), 0.0, NAMES)
    assert not any(leaf.any() for leaf in none.values())


@pytest.mark.parametrize(
    ("made", "true", "error"),
    [
        (np.full((1, 2, 2, 2), 0.5), np.zeros((1, 2, 3), int), BadUpdate),
        (np.full((1, 2, 2, 2), 0.5), np.full((1, 2, 2), 2), BadData),
        (np.full((1, 2, 2, 2), 0.7), np.zeros((1, 2, 2), int), BadUpdate),
        (np.full((1, 2, 2, 2), np.nan), np.zeros((1, 2, 2), int), BadUpdate),
    ],
)
def test_what_does_not_fit_is_refused(made: np.ndarray, true: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error):
        measure("segmentation", made, true, 0.0, NAMES)
