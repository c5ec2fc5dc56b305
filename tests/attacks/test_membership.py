from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from aimer2.attacks.membership import certainty, told_apart, unusual
from aimer2.core.dataset import Samples
from aimer2.core.study import Study
from aimer2.learners.catalogue import make_learner
from aimer2.site.leak.hospitals import Hospitals
from aimer2.site.leak.tracing import Trace, trace


def test_the_area_is_that_of_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(1)
    members, others = rng.integers(0, 6, 40).astype(float), rng.integers(0, 5, 70).astype(float)
    told = told_apart([members], [others])
    assert told.auc == pytest.approx(roc_auc_score([1] * 40 + [0] * 70, np.concatenate([members, others])))
    assert told.low < told.auc < told.high


def test_the_interval_of_one_model_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covers = 0
    for _ in range(200):
        told = told_apart([rng.normal(1.0, 1.0, 60)], [rng.normal(0.0, 1.0, 60)])
        covers += told.low <= 0.7602 <= told.high
    assert covers >= 182


def test_certainty_is_of_each_records_own_outcome() -> None:
    assert np.allclose(certainty(np.array([0.9, 0.9]), np.array([1, 0])), [np.log(9), -np.log(9)])
    assert np.allclose(certainty(np.array([[0.2, 0.8], [0.5, 0.5]]), np.array([1, 0])), [np.log(4), 0.0])
    assert np.allclose(certainty(np.array([3.0, 1.5]), np.array([5.0, 1.5])), [-4.0, 0.0])
    assert np.isfinite(certainty(np.array([0.0, 1.0]), np.array([1, 0]))).all()


def test_records_that_are_easy_for_every_model_are_not_taken_for_members() -> None:
    """The threshold on certainty alone is fooled by how hard a record is; against other models it is not."""
    rng = np.random.default_rng(7)
    hardness = rng.normal(0, 5, 300)
    inside = np.zeros(300, bool)
    inside[:150] = True
    attacked = hardness + inside * 1.0 + rng.normal(0, 0.3, 300)
    others = [hardness + rng.normal(0, 0.3, 300) for _ in range(8)]
    raised = unusual(attacked, others, [np.ones(300, bool)] * 8)
    assert told_apart([attacked[inside]], [attacked[~inside]]).auc < 0.65
    assert told_apart([raised[inside]], [raised[~inside]]).auc > 0.95


def test_a_record_that_every_model_has_seen_says_nothing() -> None:
    seen = np.array([True, False])
    raised = unusual(np.array([3.0, 3.0]), [np.array([0.0, 0.0])] * 3, [~seen] * 3)
    assert raised[0] == 0.0


def test_who_was_learnt_by_heart_is_told_from_the_hospitals_own_model_and_hardly_from_the_pooled_one() -> None:
    """As many features as patients and outcomes at random, so that a model can only learn them by heart: the attack has power, and pooling takes
    much of it away."""
    rows = np.random.default_rng(6).normal(size=(90, 30))
    study = Study(
        name="by-heart",
        question="Can outcomes at random be learnt at all?",
        purpose="test of the attacks",
        ethics="none needed, public",
        principal_investigator="Dr Ada Test",
        expires="2099-01-01",
        cohort={"dataset": "noise", "features": [{"name": f"f{place}"} for place in range(30)], "target": {"name": "outcome"}},
        model={"framework": "numpy", "name": "logistic"},
        training={"learning_rate": 1.0, "batch_size": None, "local_steps": 100},
        method={"name": "fedavg", "rounds": 2},
    )
    learner = make_learner(study, feature_shape=(30,), files={})
    samples = Samples(rows, np.random.default_rng(1).integers(0, 2, 90))
    setting = Trace(Hospitals(study, learner, samples), None, dict(learner.parameters()), 8, np.random.default_rng(2))
    found = {(one.view, one.attack): one for one in trace(setting, time.process_time).results}
    assert found["alone", "threshold"].low > 0.65 and found["alone", "likelihood"].low > 0.62
    assert max(found["sum", attack].auc for attack in ("threshold", "likelihood")) < 0.62
