"""Federated training with one full-batch step per round goes where the pooled analysis is: statsmodels on all rows together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.datasets import load_breast_cancer, load_diabetes

from aimer2.algorithms.fedavg import FedAvg
from aimer2.algorithms.fedavgm import FedAvgM
from aimer2.client.simulate import federate
from aimer2.core.dataset import Samples
from aimer2.core.study import Target, Training
from aimer2.learners.numpy import NumpyLearner
from aimer2.learners.recipe import Recipe
from aimer2.models.linear import Linear, Logistic

SITES = ("a", "b", "c", "d")


def federated(model: Any, features: Any, targets: Any, *, kind: Any, rate: float, algorithm: Any) -> dict[str, Any]:
    """Row i goes to site i mod 4, so sites differ in size."""
    width = features.shape[1]

    def learner() -> NumpyLearner:
        return NumpyLearner(lambda: model(width), Recipe(Training(learning_rate=rate), Target(name="y", kind=kind), 10**6, (width,)))

    sites = {site: (learner(), Samples(features[number :: len(SITES)], targets[number :: len(SITES)])) for number, site in enumerate(SITES)}
    return dict(federate(algorithm, sites, rounds=algorithm.rounds, steps=1, batch_size=None))


def raw(found: dict[str, Any], mean: Any, deviation: Any) -> Any:
    """Coefficients on standardised features as those on the features themselves, intercept first."""
    slope = found["coefficients"] / deviation
    return np.concatenate([found["intercept"] - slope @ mean, slope])


def test_logistic_regression_on_breast_cancer() -> None:
    cancer: Any = load_breast_cancer()
    columns = [list(cancer.feature_names).index(f"mean {name}") for name in ("radius", "texture", "smoothness", "concavity", "symmetry")]
    features, malignant = cancer.data[:, columns], 1 - cancer.target
    mean = features.mean(axis=0)
    oracle = sm.Logit(malignant, sm.add_constant(features)).fit(disp=0, tol=1e-12).params
    # The published answer, so that a fault of the oracle's version shows.
    assert oracle == pytest.approx([-40.73798025, 1.300653352, 0.3828008831, 102.7973758, 18.5184779, 14.37445986], rel=1e-7)
    # Correlated columns make gradient descent slow: turned to axes of equal spread, which changes nothing of the model.
    lengths, axes = np.linalg.eigh(np.cov(features.T))
    turn = axes / np.sqrt(lengths)
    algorithm = FedAvgM(rounds=400, momentum=0.9)
    found = federated(Logistic, (features - mean) @ turn, malignant, kind="binary", rate=8.0, algorithm=algorithm)
    slope = turn @ found["coefficients"]
    assert [float(found["intercept"][0] - slope @ mean), *slope] == pytest.approx(oracle, rel=1e-7)


def test_linear_regression_on_diabetes() -> None:
    diabetes: Any = load_diabetes(scaled=False)
    columns = [list(diabetes.feature_names).index(name) for name in ("age", "sex", "bmi", "bp")]
    features, targets = diabetes.data[:, columns], diabetes.target
    mean, deviation = features.mean(axis=0), features.std(axis=0, ddof=1)
    oracle = sm.OLS(targets, sm.add_constant(features)).fit().params
    found = federated(Linear, (features - mean) / deviation, targets, kind="regression", rate=0.3, algorithm=FedAvg(rounds=150))
    assert raw(found, mean, deviation) == pytest.approx(oracle, rel=1e-9)
