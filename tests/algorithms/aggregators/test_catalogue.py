"""Aggregators are found by name, made with their parameters, and refused where they cannot hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aimer2.algorithms.aggregators import catalogue
from aimer2.algorithms.aggregators.krum import Krum
from aimer2.core.clock import SystemClock
from aimer2.core.errors import BadStudy
from aimer2.core.study import Study
from aimer2.core.task import BlobRef
from aimer2.messages.package import Package
from aimer2.site.description import describe_request
from aimer2.study.check import check


def study(minimum: int = 3, secure: bool = False, **method: Any) -> Study:
    return Study(
        name="heart",
        question="Does this patient have a heart disease?",
        purpose="testing",
        ethics="none needed: drawn numbers",
        principal_investigator="Test",
        expires="2090-01-01",
        cohort={"dataset": "heart", "features": [{"name": "age"}], "target": {"name": "disease"}},
        model={"framework": "numpy", "name": "logistic"},
        method=method,
        sites={"minimum": minimum},
        privacy={"secure_aggregation": secure, "why_not_secure": "" if secure else "a test"},
    )


def faults(minimum: int = 3, secure: bool = False, **method: Any) -> list[tuple[str, str]]:
    found = check(study(minimum, secure, **method), Path(), SystemClock())
    return [(fault.place, fault.problem) for fault in found if fault.place.startswith("method")]


def test_names_and_makes() -> None:
    assert {"weighted_mean", "median", "trimmed_mean", "krum", "geometric_median", "norm_bounded", "centred_clipping"} == set(catalogue.names())
    assert catalogue.make("krum", 8, {"byzantine": 2, "selected": 4}) == Krum(byzantine=2, selected=4, block=8)
    for name in catalogue.names():
        assert catalogue.make(name, 16, {}) == catalogue.example(name)
        assert catalogue.summary(name).endswith(".")


def test_every_wrong_parameter_is_told() -> None:
    with pytest.raises(BadStudy) as caught:
        catalogue.make("krum", 16, {"byzantine": 0, "selected": 1.5, "block": 2, "flag": True})
    assert {(fault.place, fault.problem) for fault in caught.value.faults} == {
        ("method.aggregator_parameters.byzantine", "is 0, not at least 1"),
        ("method.aggregator_parameters.selected", "is not a int"),
        ("method.aggregator_parameters.block", "krum has no such parameter"),
        ("method.aggregator_parameters.flag", "krum has no such parameter"),
    }


@pytest.mark.parametrize("name", ["mean", "stack", "span", "catalogue", "../median"])
def test_a_name_that_is_not_there(name: str) -> None:
    with pytest.raises(BadStudy, match="no aggregator"):
        catalogue.make(name, 16, {})


@pytest.mark.parametrize(
    ("name", "parameters", "needed"),
    [
        ("weighted_mean", {}, 1),
        ("median", {}, 3),
        ("geometric_median", {}, 3),
        ("trimmed_mean", {"byzantine": 2}, 5),
        ("krum", {"byzantine": 1}, 5),
        ("krum", {"byzantine": 2}, 7),
        ("krum", {"byzantine": 1, "selected": 4}, 7),
    ],
)
def test_a_study_with_too_few_sites_is_refused(name: str, parameters: dict[str, Any], needed: int) -> None:
    terms: dict[str, Any] = {"aggregator": name, "aggregator_parameters": parameters}
    assert faults(needed, **terms) == []
    if needed > 1:
        ((place, problem),) = faults(needed - 1, **terms)
        assert (place, f"needs {needed} answers" in problem) == ("method.aggregator", True)


def test_faults_of_a_study() -> None:
    assert faults(aggregator="magic")[0] == ("method.aggregator", "there is no aggregator 'magic'")
    assert faults(aggregator="median", aggregator_parameters={"f": 1}) == [("method.aggregator_parameters.f", "median has no such parameter")]
    assert "shows nobody a single one" in faults(secure=True, aggregator="median")[0][1]
    assert faults(secure=True) == []


def told(**method: Any) -> str:
    package = Package(study=study(**method), method_version=1, initial=BlobRef(sha256="b" * 64, size=1), roster={"a": "key"})
    return "\n".join(describe_request(package, "c" * 64))


def test_the_hospital_is_told_that_its_update_is_looked_at_alone() -> None:
    krum = told(aggregator="krum", aggregator_parameters={"byzantine": 2})
    assert all(words in krum for words in ("combined by krum", "byzantine = 2", "one by one"))
    assert "one by one" not in told()
    assert "does not have" in told(aggregator="magic")
