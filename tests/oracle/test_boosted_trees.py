"""Trees grown by the four hospitals of UCI Heart Disease are as good as scikit-learn's on all their patients pooled, gaps included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from aimer2.algorithms.boosted_trees import BoostedTrees
from aimer2.core.dataset import Samples
from aimer2.core.protocols import Local
from aimer2.core.study import Target, Training
from aimer2.core.update import total
from aimer2.learners.recipe import Recipe
from aimer2.learners.trees import TreesLearner
from aimer2.models.trees import BoostedTrees as Form

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
TREES, DEPTH, BINS = 30, 3, 32
NUMBERS = list(range(13))
Floats = npt.NDArray[np.float64]


def patients(folder: Path) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Thirteen findings, whether there is disease, and the number of the hospital."""
    parts = [np.genfromtxt(folder / f"processed.{name}.data", delimiter=",", missing_values="?") for name in HOSPITALS]
    whole = np.concatenate(parts)
    return whole[:, NUMBERS], (whole[:, 13] > 0).astype(np.int64), np.repeat(np.arange(4), [len(part) for part in parts])


def learner() -> TreesLearner:
    form = Form(len(NUMBERS), 1, TREES, DEPTH, BINS)
    return TreesLearner(lambda: form, Recipe(Training(), Target(name="y"), 10, (len(NUMBERS),)))


def federated(features: Floats, targets: Any, hospital: Any) -> TreesLearner:
    sites = [(learner(), Samples(features[hospital == number], targets[hospital == number])) for number in range(4)]
    method, rng = BoostedTrees(rounds=1 + TREES * DEPTH), np.random.default_rng(1)
    state = method.init(learner().parameters())
    while not method.finished(state):
        sent = method.broadcast(state)
        state = method.update(state, total([method.local(sent, Local(data, who, {}, rng, 1, 1, None)) for who, data in sites]))
    grown = learner()
    grown.load(method.model(state))
    return grown


def test_as_good_as_pooled(data_dir: Path) -> None:
    features, targets, hospital = patients(data_dir / "heart-disease-4sites")
    assert np.isnan(features).mean() > 0.1
    ours, theirs = [], []
    for train, test in StratifiedKFold(4, shuffle=True, random_state=1).split(features, targets):
        grown = federated(features[train], targets[train], hospital[train])
        ours.append(roc_auc_score(targets[test], grown.predict(Samples(features[test], targets[test]))))
        pooled = HistGradientBoostingClassifier(
            learning_rate=0.1, max_iter=TREES, max_depth=DEPTH, max_bins=BINS, l2_regularization=1.0, min_samples_leaf=10, early_stopping=False
        ).fit(features[train], targets[train])
        theirs.append(roc_auc_score(targets[test], pooled.predict_proba(features[test])[:, 1]))
    assert abs(np.mean(ours) - np.mean(theirs)) <= 0.01
    assert np.mean(ours) > 0.85
