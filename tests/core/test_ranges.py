"""A hyper-parameter out of its range is refused when the method is made, with every fault at once."""

from __future__ import annotations

from typing import Any

import pytest

from aimer2.algorithms import catalogue
from aimer2.algorithms.fedprox import FedProx
from aimer2.core.errors import BadStudy

OUTSIDE = [
    ("fedavg", "server_learning_rate", 0.0),
    ("fedavg", "server_learning_rate", float("inf")),
    ("fedprox", "mu", -1),
    ("fedprox", "mu", float("nan")),
    ("fedprox", "server_learning_rate", -0.1),
    ("fedavgm", "momentum", 1.0),
    ("fedavgm", "momentum", -0.5),
    ("fedavgm", "server_learning_rate", 0),
    ("scaffold", "option", 3),
    ("scaffold", "server_learning_rate", 0.0),
    *((method, parameter, value) for method in ("fedadam", "fedyogi") for parameter, value in (("beta_1", 1.0), ("beta_2", -0.1), ("tau", 0.0))),
    ("fedadagrad", "beta_1", 1.0),
    ("feddyn", "alpha", 0.0),
    ("qfedavg", "q", -0.1),
    ("qfedavg", "lipschitz", 0.0),
    *(("fednova", parameter, value) for parameter, value in (("momentum", 1.0), ("mu", -1), ("server_learning_rate", 0.0))),
    ("fedadagrad", "tau", 0.0),
    *((method, "mixture_rate", -0.1) for method in ("worst_site", "worst_group")),
    ("ditto", "lambda_", -0.1),
    ("fedrep", "head_steps", -1),
    ("local_fine_tuning", "fine_tuning_steps", -1),
    ("lora", "rank", 0),
    ("lora", "alpha", 0.0),
    *((method, "validation", value) for method in ("fedbn", "fedper", "fedrep", "ditto", "local_fine_tuning") for value in (0.0, 1.0)),
]


@pytest.mark.parametrize(("method", "parameter", "value"), OUTSIDE)
def test_it_is_refused(method: str, parameter: str, value: Any) -> None:
    with pytest.raises(BadStudy) as caught:
        catalogue.make(method, 5, {parameter: value})
    (fault,) = caught.value.faults
    assert fault.place == f"method.parameters.{parameter}"
    assert fault.remedy.startswith("give a number ")


def test_limits_that_mean_something_are_allowed() -> None:
    catalogue.make("fedprox", 5, {"mu": 0})
    catalogue.make("fedavgm", 5, {"momentum": 0.0})


def test_faults_of_every_kind_are_told_together() -> None:
    with pytest.raises(BadStudy) as caught:
        catalogue.make("fedprox", 5, {"mu": -1.0, "server_learning_rate": "fast", "nu": 3})
    found = {(fault.place.rpartition(".")[2], fault.problem) for fault in caught.value.faults}
    assert found == {("nu", "fedprox has no such parameter"), ("server_learning_rate", "is not a float"), ("mu", "is -1, not at least 0")}


def test_it_holds_without_a_study_too() -> None:
    with pytest.raises(BadStudy, match="mu: is -1, not at least 0"):
        FedProx(mu=-1.0)
