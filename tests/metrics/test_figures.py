"""The entry points: sums of parts are the whole's, every metric reads back, faults are refused without a value in the sentence."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aimer2.core.errors import BadData, BadInput, BadUpdate
from aimer2.metrics.figures import Figure, Task, available, figures, measure, shapes, validate
from aimer2.metrics.survival import NO_TIMELINE, Timeline

Array = NDArray[Any]
TASKS: tuple[Task, ...] = get_args(Task)
BEYOND_COUNTS = {
    "binary": {"binned_scores", "confusion", "calibration", "brier", "log_loss"},
    "multiclass": {"binned_scores", "confusion", "calibration", "brier", "log_loss"},
    "regression": {"errors", "targets"},
    "multilabel": {"binned_scores", "confusion", "exact", "brier", "log_loss"},
    "survival": {"pairs", "brier", "calibration"},
    "segmentation": {"overlap"},
}
TIMELINE = Timeline((1.0, 2.0, 4.0), (1.0, 2.0))


def records(task: Task, n: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    if task == "binary":
        return rng.random(n), rng.integers(0, 2, n)
    if task == "multiclass":
        return rng.dirichlet(np.ones(3), n), rng.integers(0, 3, n)
    if task == "multilabel":
        return rng.random((n, 3)), rng.integers(0, 2, (n, 3))
    if task == "survival":
        return -np.sort(-rng.random((n, 3)), axis=1), np.stack((rng.exponential(2, n), rng.integers(0, 2, n)), axis=1)
    if task == "segmentation":
        return np.moveaxis(rng.dirichlet(np.ones(3), (n, 4, 5)), 3, 1), rng.integers(0, 3, (n, 4, 5))
    return rng.normal(size=n), rng.normal(size=n)


def plain(figure: Figure) -> str:
    """The metric of a figure that may be one label's or one horizon's."""
    return figure.name.partition(" ")[0]


@pytest.mark.parametrize("task", TASKS)
def test_the_shapes_of_the_sums_are_foretold(task: Task) -> None:
    scores, targets = records(task, 12)
    sums = measure(task, scores, targets, 1.0, list(available(task)), timeline=TIMELINE if task == "survival" else NO_TIMELINE)
    assert {key: leaf.shape for key, leaf in sums.items()} == shapes(task, 3, 2)


# Pairs and weights of survival are made within a site: there the sums of two sites are not those of both as one.
@pytest.mark.parametrize("task", [task for task in TASKS if task != "survival"])
@given(data=st.data())
def test_the_sums_of_the_parts_are_the_sums_of_the_whole(task: Task, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, 30))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=3)))
    scores, targets = records(task, n, data.draw(st.integers(0, 99)))
    names = list(available(task))
    whole = measure(task, scores, targets, float(n), names, centre=0.5)
    parts = [measure(task, s, t, float(len(t)), names, centre=0.5) for s, t in zip(np.split(scores, cuts), np.split(targets, cuts), strict=True)]
    assert whole.keys() == BEYOND_COUNTS[task] | {"count", "loss"}
    for key, leaf in whole.items():
        pooled = sum(part[key] for part in parts)
        assert isinstance(pooled, np.ndarray)
        assert (pooled.dtype, pooled.shape) == (leaf.dtype, leaf.shape)
        assert leaf.dtype in (np.float64, np.int64)
        np.testing.assert_allclose(pooled, leaf, rtol=1e-12, atol=1e-12)
    assert {figure.name: figure.n for figure in figures(task, whole, names)} == {
        figure.name: figure.n for figure in figures(task, {key: sum(part[key] for part in parts) for key in whole}, names)
    }


def test_by_hand() -> None:
    sums = measure("binary", np.array([0.9, 0.2]), np.array([1, 0]), 0.8, ["accuracy", "loss"])
    assert sums.keys() == {"count", "loss", "confusion"}
    accuracy, loss = figures("binary", sums, ["accuracy", "loss"])
    assert accuracy == Figure("accuracy", 1.0, pytest.approx(0.3424, abs=1e-4), 1.0, 2, "")
    assert loss == Figure("loss", 0.4, None, None, 2, "no interval")


def test_only_what_is_named_leaves_the_site() -> None:
    scores, targets = records("binary", 20)
    assert measure("binary", scores, targets, 1.0, []).keys() == {"count", "loss"}
    assert measure("binary", scores, targets, 1.0, ["brier"]).keys() == {"count", "loss", "brier"}
    assert measure("binary", scores, targets, 1.0, ["auc", "average_precision"]).keys() == {"count", "loss", "binned_scores"}


@pytest.mark.parametrize("task", TASKS)
def test_every_metric_is_defined_on_ordinary_records_and_in_its_interval(task: Task) -> None:
    names = list(available(task))
    read = figures(task, measure(task, *records(task, 200), 12.0, names, timeline=TIMELINE), names)
    assert list(dict.fromkeys(map(plain, read))) == names
    for figure in read:
        assert figure.value is not None
        assert 0 < figure.n <= 200
        assert (figure.low is None) == (figure.high is None)
        if figure.low is not None and figure.high is not None:
            assert figure.low <= figure.value <= figure.high
        else:
            assert "no interval" in figure.note


@pytest.mark.parametrize("task", TASKS)
def test_no_records_give_zero_sums_and_undefined_figures(task: Task) -> None:
    names = list(available(task))
    sums = measure(task, *records(task, 0), 0.0, names, timeline=TIMELINE)
    assert all((leaf == 0).all() for leaf in sums.values())
    for figure in figures(task, sums, names):
        assert (figure.value, figure.low, figure.high, figure.n) == (None, None, None, 0)
        assert figure.note


def test_one_class_alone_leaves_the_ranking_undefined_and_says_so() -> None:
    names = ["auc", "average_precision", "sensitivity", "specificity", "brier"]
    read = {f.name: f for f in figures("binary", measure("binary", np.array([0.2, 0.7]), np.zeros(2), 1.0, names), names)}
    assert (read["auc"].value, read["auc"].note) == (None, "only one class present")
    assert read["average_precision"].value is None
    assert read["sensitivity"].value is None
    assert read["specificity"].value == 0.5
    assert read["brier"].value == pytest.approx((0.04 + 0.49) / 2)


SCORES = np.array([0.2, 0.7, 0.4])
TARGETS = np.array([0, 1, 0])


@pytest.mark.parametrize(
    ("task", "scores", "targets", "loss", "error"),
    [
        ("binary", np.array([0.2, np.nan, 0.4]), TARGETS, 1.0, BadUpdate),
        ("binary", np.array([0.2, np.inf, 0.4]), TARGETS, 1.0, BadUpdate),
        ("binary", np.array([0.2, 1.731, 0.4]), TARGETS, 1.0, BadUpdate),
        ("binary", SCORES[:, None], TARGETS, 1.0, BadUpdate),
        ("binary", SCORES[:2], TARGETS, 1.0, BadUpdate),
        ("binary", SCORES.astype(str), TARGETS, 1.0, BadUpdate),
        ("binary", SCORES, TARGETS, float("nan"), BadUpdate),
        ("binary", SCORES, np.array([0, 1, 1731]), 1.0, BadData),
        ("binary", SCORES, np.array([0, 1, 0.1731]), 1.0, BadData),
        ("binary", SCORES, np.array([0, 1, np.nan]), 1.0, BadData),
        ("multiclass", np.full((3, 3), 0.9), TARGETS, 1.0, BadUpdate),
        ("multiclass", np.ones((3, 1)), np.zeros(3), 1.0, BadUpdate),
        ("multiclass", np.full((3, 2), 0.5), np.array([0, 1, 2]), 1.0, BadData),
        ("regression", np.full(3, 1e300), TARGETS, 1.0, BadUpdate),
        ("multilabel", np.full((3, 2), 0.5), TARGETS, 1.0, BadUpdate),
        ("multilabel", np.full((3, 2), 0.5), np.full((3, 2), 1731), 1.0, BadData),
        ("survival", SCORES, TARGETS, 1.0, BadUpdate),
        ("survival", SCORES, np.array([[1.0, 1], [-0.1731, 1], [1, 0]]), 1.0, BadData),
        ("survival", SCORES, np.array([[1.0, 1], [2, 0.1731], [1, 0]]), 1.0, BadData),
        ("survival", np.full((3, 3), 1.5), np.ones((3, 2)), 1.0, BadUpdate),
    ],
)
def test_faults_are_refused_and_the_sentence_names_no_value(task: Task, scores: Array, targets: Array, loss: float, error: type) -> None:
    with pytest.raises(error) as refusal:
        measure(task, scores, targets, loss, list(available(task)))
    assert "731" not in str(refusal.value)


def test_float32_probabilities_a_little_over_one_are_taken_as_one() -> None:
    scores = np.array([1.0000001, -1e-8, 0.5], dtype=np.float32)
    (figure,) = figures("binary", measure("binary", scores, np.array([True, False, True]), 1.0, ["log_loss"]), ["log_loss"])
    assert figure.value == pytest.approx(np.log(2) / 3)


def test_unknown_names_are_found_and_refused() -> None:
    assert validate("regression", ["mae", "auc", "r2", "acuracy"]) == ["auc", "acuracy"]
    assert validate("binary", list(available("binary"))) == []
    with pytest.raises(BadInput, match="acuracy"):
        measure("binary", SCORES, TARGETS, 1.0, ["acuracy"])
    with pytest.raises(BadInput, match="mse"):
        figures("binary", {}, ["mse"])


@pytest.mark.parametrize(
    ("task", "name", "key", "leaf"),
    [
        ("binary", "auc", "binned_scores", np.zeros((2, 100))),
        ("binary", "accuracy", "confusion", np.zeros((3, 3))),
        ("multiclass", "accuracy", "confusion", np.zeros((3, 2))),
        ("multiclass", "auc", "binned_scores", np.zeros((0, 2, 1024))),
        ("multiclass", "auc", "binned_scores", np.float64(1.0)),
        ("binary", "loss", "loss", np.array([np.nan])),
        ("binary", "loss", "count", np.zeros(())),
        ("multilabel", "auc_by_label", "binned_scores", np.zeros((2, 1024))),
        ("survival", "concordance", "pairs", np.zeros(4)),
        ("survival", "brier", "brier", np.zeros((0, 3))),
    ],
)
def test_sums_of_a_wrong_form_are_refused(task: Task, name: str, key: str, leaf: Array) -> None:
    sums = {"count": np.array([3]), "loss": np.array([1.0])} | {key: np.asarray(leaf)}
    with pytest.raises(BadUpdate, match=key):
        figures(task, sums, [name])


def test_a_figure_in_parts_bears_the_names_of_the_parts() -> None:
    sums = measure("multilabel", *records("multilabel", 50), 1.0, ["auc_by_label"])
    assert [figure.name for figure in figures("multilabel", sums, ["auc_by_label"], ["a", "b", "c"])] == [f"auc_by_label {n}" for n in "abc"]
    with pytest.raises(BadUpdate, match="binned_scores"):
        figures("multilabel", sums, ["auc_by_label"], ["a", "b"])


def test_missing_sums_are_named() -> None:
    with pytest.raises(BadUpdate, match="brier"):
        figures("binary", measure("binary", SCORES, TARGETS, 1.0, []), ["brier"])


@pytest.mark.parametrize("task", TASKS)
def test_noise_added_for_privacy_never_breaks_the_report(task: Task) -> None:
    names = list(available(task))
    sums = measure(task, *records(task, 6), 2.0, names, timeline=TIMELINE)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        noisy = {key: leaf + rng.normal(0, 20, leaf.shape) for key, leaf in sums.items()}
        for figure in figures(task, noisy, names):
            assert figure.value is None or np.isfinite(figure.value)
            assert figure.value is not None or figure.note
