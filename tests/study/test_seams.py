from __future__ import annotations

from typing import Any

import pytest

from aimer2.algorithms import catalogue
from aimer2.core.study import Study
from aimer2.study.seams import faults, why_gradients

CORRECT = {"fedprox": "corrects", "scaffold": "corrects", "feddyn": "corrects", "ditto": "corrects", "fedsgd": "all rows"}
PLAIN = ("fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "qfedavg")


@pytest.mark.parametrize("name", CORRECT)
def test_methods_with_gradients_are_found_out(name: str) -> None:
    assert CORRECT[name] in (why_gradients(catalogue.example(name)) or "nothing")


@pytest.mark.parametrize("name", PLAIN)
def test_methods_without_are_let_go(name: str) -> None:
    assert why_gradients(catalogue.example(name)) is None


def test_it_hangs_on_the_parameters() -> None:
    assert why_gradients(catalogue.make("fednova", 3, {})) is None
    assert why_gradients(catalogue.make("fednova", 3, {"momentum": 0.5})) == "corrects each gradient"


ON_ANY_MODEL = [name for name in catalogue.names() if not hasattr(catalogue.example(name), "adapted") and "trees" not in catalogue.frameworks(name)]


@pytest.mark.parametrize("name", ON_ANY_MODEL)
def test_no_method_fails_on_the_blind_learner(name: str) -> None:
    why_gradients(catalogue.example(name))


def study(framework: str, **method: Any) -> Study:
    return Study(
        name="seams",
        question="Can this method go with this learner?",
        purpose="testing",
        ethics="none needed: no data",
        principal_investigator="Test",
        expires="2090-01-01",
        cohort={"dataset": "none", "features": [{"name": "x"}], "target": {"name": "y"}},
        model={"framework": framework, "name": "logistic"},
        method=method,
    )


def test_only_a_framework_without_gradients_refuses() -> None:
    assert [fault.place for fault in faults(study("sklearn", name="fedprox"))] == ["method.name"]
    assert faults(study("sklearn", name="fedavg")) == faults(study("keras", name="fedprox")) == faults(study("numpy", name="scaffold")) == []
    assert faults(study("sklearn", name="no_such_method")) == []


@pytest.mark.parametrize("framework", ["keras", "sklearn", "numpy"])
def test_low_rank_adapters_are_made_by_torch_alone(framework: str) -> None:
    assert [fault.place for fault in faults(study(framework, name="lora"))] == ["method.name"]
    assert faults(study("torch", name="lora")) == []
