"""Counts of calls: scikit-learn's matrix, and undefined where scikit-learn would warn and say 0."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, precision_score, recall_score

from aimer2.metrics import confusion
from aimer2.metrics.intervals import wilson

TABLE = np.array([[80, 10], [4, 6]])  # tn 80, fp 10, fn 4, tp 6


def test_by_hand() -> None:
    assert confusion.accuracy(TABLE).value == 0.86
    assert confusion.sensitivity(TABLE).value == 0.6
    assert confusion.specificity(TABLE).value == pytest.approx(80 / 90)
    assert confusion.ppv(TABLE).value == 0.375
    assert confusion.npv(TABLE).value == pytest.approx(80 / 84)
    assert confusion.balanced_accuracy(TABLE).value == pytest.approx((0.6 + 80 / 90) / 2)
    assert confusion.f1(TABLE).value == pytest.approx(12 / 26)


def test_a_proportion_rests_on_its_own_denominator() -> None:
    read = confusion.sensitivity(TABLE)
    assert (read.low, read.high) == wilson(6, 10)
    assert (read.n, confusion.specificity(TABLE).n, confusion.ppv(TABLE).n, confusion.npv(TABLE).n) == (10, 90, 16, 84)


def test_at_the_threshold_is_positive() -> None:
    scores = np.array([0.5, np.nextafter(0.5, 0), 0.9, 0.1])
    assert confusion.binary(scores, np.array([1, 1, 0, 0])).tolist() == [[1, 1], [1, 1]]
    assert confusion.binary(scores, np.array([1, 1, 0, 0]), threshold=0.95).tolist() == [[2, 0], [2, 0]]


def test_of_equal_probabilities_the_first_class_is_called() -> None:
    assert confusion.multiclass(np.full((1, 3), 1 / 3), np.array([2])).tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_nobody_of_a_class_is_undefined_not_zero() -> None:
    negatives_only = np.array([[7, 3], [0, 0]])
    assert confusion.sensitivity(negatives_only).value is None
    assert confusion.sensitivity(negatives_only).note == "no record is positive"
    assert confusion.f1(negatives_only).value is None
    assert confusion.balanced_accuracy(negatives_only).value is None
    assert confusion.specificity(np.array([[0, 0], [1, 1]])).value is None
    never_called = np.array([[7, 0], [3, 0]])
    assert confusion.ppv(never_called).value is None
    assert confusion.npv(never_called[:, ::-1]).value is None
    assert confusion.f1(never_called).value == 0  # positives there are, and all are missed
    assert confusion.accuracy(np.zeros((2, 2), int)).note == "no record was evaluated"


def test_macro_names_the_class_that_is_missing() -> None:
    matrix = np.array([[5, 1, 0], [2, 4, 0], [0, 0, 0]])
    read = confusion.macro(confusion.ppv, matrix)
    assert read.value is None
    assert read.note == "class 2: no record was called positive"
    assert "class 2" in confusion.balanced_accuracy(matrix).note


calls = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=80)


@given(calls)
def test_scikit_learn_agrees_wherever_the_figure_is_defined(drawn: list[tuple[int, int]]) -> None:
    truth, called = np.array(drawn).T
    matrix = confusion.counts(called, truth, 4)
    np.testing.assert_array_equal(matrix, confusion_matrix(truth, called, labels=range(4)))
    assert confusion.accuracy(matrix).value == pytest.approx(accuracy_score(truth, called))
    if set(truth) != set(range(4)):
        assert confusion.balanced_accuracy(matrix).value is None
        assert confusion.macro(confusion.f1, matrix).value is None
        return
    assert confusion.balanced_accuracy(matrix).value == pytest.approx(balanced_accuracy_score(truth, called))
    assert confusion.macro(confusion.sensitivity, matrix).value == pytest.approx(recall_score(truth, called, average="macro"))
    assert confusion.macro(confusion.f1, matrix).value == pytest.approx(f1_score(truth, called, average="macro"))
    ppv = confusion.macro(confusion.ppv, matrix).value
    assert ppv is None if set(called) != set(range(4)) else ppv == pytest.approx(precision_score(truth, called, average="macro"))


def test_one_against_rest_keeps_every_record() -> None:
    matrix = np.array([[5, 1, 2], [3, 4, 0], [1, 1, 9]])
    tables = confusion.one_against_rest(matrix)
    assert tables[0].tolist() == [[14, 4], [3, 5]]
    assert (tables.sum(axis=(1, 2)) == matrix.sum()).all()
