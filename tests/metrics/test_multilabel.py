"""Labels against scikit-learn, and each against the binary task it is alone."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, hamming_loss, roc_auc_score

from aimer2.metrics.figures import figures, measure

RNG = np.random.default_rng(5)
TARGETS = RNG.integers(0, 2, (300, 4))
SCORES = 1 / (1 + np.exp(-RNG.normal(TARGETS - 0.5, 1.5)))
NAMES = ["auc", "auc_micro", "auc_by_label", "accuracy", "hamming_accuracy", "f1", "f1_micro"]


def test_as_scikit_learn_has_them() -> None:
    read = {figure.name: figure.value for figure in figures("multilabel", measure("multilabel", SCORES, TARGETS, 1.0, NAMES), NAMES)}
    called = SCORES >= 0.5
    assert read["auc"] == pytest.approx(roc_auc_score(TARGETS, SCORES, average="macro"), abs=2e-4)
    assert read["auc_micro"] == pytest.approx(roc_auc_score(TARGETS, SCORES, average="micro"), abs=2e-4)
    assert read["accuracy"] == pytest.approx(accuracy_score(TARGETS, called))
    assert read["hamming_accuracy"] == pytest.approx(1 - hamming_loss(TARGETS, called))
    assert read["f1"] == pytest.approx(f1_score(TARGETS, called, average="macro"))
    assert read["f1_micro"] == pytest.approx(f1_score(TARGETS, called, average="micro"))


def test_a_label_is_a_binary_target_of_its_own() -> None:
    names = ["auc_by_label", "sensitivity_by_label", "specificity_by_label"]
    read = figures("multilabel", measure("multilabel", SCORES, TARGETS, 1.0, names), names)
    for label in range(4):
        alone = figures("binary", measure("binary", SCORES[:, label], TARGETS[:, label], 1.0, list(BINARY)), list(BINARY))
        assert [(f.value, f.low, f.high, f.n) for f in read[label::4]] == [(f.value, f.low, f.high, f.n) for f in alone]


BINARY = ("auc", "sensitivity", "specificity")


def test_a_label_that_nobody_has_leaves_the_mean_undefined_and_is_named() -> None:
    targets = TARGETS.copy()
    targets[:, 2] = 0
    auc, *each = figures("multilabel", measure("multilabel", SCORES, targets, 1.0, ["auc", "auc_by_label"]), ["auc", "auc_by_label"])
    assert (auc.value, auc.note) == (None, "label 2: only one class present")
    assert [figure.value is None for figure in each] == [False, False, True, False]
