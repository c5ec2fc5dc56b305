"""All faults of a study before any site is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aimer2.core.clock import SystemClock
from aimer2.core.errors import BadStudy
from aimer2.core.study import Study
from aimer2.study.check import check, refuse_faults

Make = Callable[..., Study]
CODE = {"framework": "numpy", "code": "model.py"}

CLEAR = {"secure_aggregation": False, "why_not_secure": "a test"}
NINE = [f"site-{number}" for number in range(9)]
GROUPED = {"privacy": {"group_size": 3}, "method": {"aggregator": "median"}, "sites": {"names": NINE, "minimum": 9}}
TORCH = {"model": {"framework": "torch", "name": "mlp"}}
STOPS = {"patience": 2, "local_epochs": 5}


def survival(*intervals: float) -> dict[str, Any]:
    target = {"name": "days", "kind": "survival", "event": "death", "intervals": intervals}
    return TORCH | {"cohort": {"dataset": "heart", "features": [{"name": "age"}], "target": target}}


# changes of a study whose form is right, and where the fault is told
FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"expires": "2020-01-01"}, "expires", "past"),
    ({"privacy": {"secure_aggregation": False}}, "privacy.why_not_secure", "sees each hospital's update"),
    ({"privacy": {"why_not_secure": "it is quicker"}}, "privacy.why_not_secure", "has secure aggregation"),
    ({"privacy": {}, "sites": {"names": ["a", "b"]}}, "privacy.secure_aggregation", "has 2: of two"),
    ({"privacy": {}, "method": {"aggregator": "median"}, "sites": {"minimum": 3}}, "method.aggregator", "one by one"),
    ({"privacy": {"group_size": 3}}, "privacy.group_size", "needs only the sum of all"),
    ({"privacy": {**CLEAR, "group_size": 3}, "method": {"aggregator": "median"}, "sites": {"minimum": 3}}, "privacy.group_size", "sees every update"),
    ({**GROUPED, "sites": {"names": NINE[:8], "minimum": 8}}, "privacy.group_size", "8 sites make 2 groups, and median"),
    ({**GROUPED, "privacy": {"group_size": 4}}, "privacy.group_size", "9 sites make 2 groups"),
    ({"method": {"name": "fedmagic"}}, "method.name", "no method 'fedmagic'"),
    ({"method": {"name": "fedprox", "parameters": {"nu": 1.0}}}, "method.parameters.nu", "no such"),
    ({"model": {"framework": "numpy", "name": "transformer"}}, "model.name", "no model"),
    ({"model": {"framework": "numpy", "name": "linear"}}, "model.name", "not for a binary"),
    ({"model": {"framework": "numpy", "name": "logistic", "options": {"depth": 3}}}, "model.options.depth", "no such"),
    ({"training": {"optimiser": "adam"}}, "training.optimiser", "no 'adam'"),
    ({"training": {"schedule": "zigzag"}}, "training.schedule", "no 'zigzag'"),
    ({"evaluation": {"metrics": ["rmse"]}}, "evaluation.metrics", "'rmse' is no metric of a binary target"),
    ({"evaluation": {"held_out": 0, "metrics": ["auc"]}}, "evaluation.held_out", "nothing can be measured"),
    ({"evaluation": {"held_out": 0, "release_per_site": True}}, "evaluation.held_out", "nothing can be measured"),
    ({"sites": {"names": ["a", "b", "a"]}}, "sites.names", "twice: a"),
    ({"sites": {"names": ["a", "b"], "minimum": 3}}, "sites.minimum", "has only 2"),
    ({"sites": {"names": ["a", "b"], "quorum": 3}}, "sites.quorum", "has only 2"),
    ({"model": CODE}, "model.code (model.py)", "not beside"),
    ({"method": {"name": "fednova"}, **TORCH, "training": {"optimiser": "adam"}}, "training.optimiser", "fednova needs 'sgd'"),
    ({"method": {"name": "fednova"}, "training": {"momentum": 0.9}}, "training.momentum", "method.parameters.momentum"),
    ({"method": {"name": "fedsgd"}, **TORCH, "training": {"optimiser": "adam"}}, "training.optimiser", "fedsgd needs 'sgd'"),
    ({"method": {"name": "fedsgd"}, "training": {"momentum": 0.5}}, "training.momentum", "fedsgd needs 0"),
    ({"method": {"name": "scaffold"}, **TORCH, "training": STOPS}, "training.patience", "divides by the steps"),
    ({"method": {"name": "fednova"}, **TORCH, "training": STOPS}, "training.patience", "divides by the steps"),
    ({"method": {"name": "fedsgd"}, **TORCH, "training": STOPS}, "training.patience", "one step a round"),
    ({**TORCH, "evaluation": {"horizons": [365]}}, "evaluation.horizons", "survival target with `intervals`"),
    ({**survival(), "evaluation": {"horizons": [365]}}, "evaluation.horizons", "Cox regression tells no risk"),
    ({**survival(180, 400), "evaluation": {"horizons": [365, 400]}}, "evaluation.horizons", "365 is no end"),
    ({**survival(180, 400), "evaluation": {"horizons": [400, 400]}}, "evaluation.horizons", "twice"),
    ({**survival(180, 400), "evaluation": {"metrics": ["brier"]}}, "evaluation.metrics", "at which times"),
    ({**survival(), "evaluation": {"metrics": ["auc"]}}, "evaluation.metrics", "'auc' is no metric of a survival target"),
]


@pytest.mark.parametrize(("changes", "place", "problem"), FAULTS, ids=[f"{place}-{number}" for number, (_, place, _) in enumerate(FAULTS)])
def test_each_fault(study: Make, tmp_path: Path, changes: dict[str, Any], place: str, problem: str) -> None:
    (fault,) = check(study(**changes), tmp_path, SystemClock())
    assert fault.place == place
    assert problem in fault.problem
    assert fault.remedy


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("def build(features, classes)", "not Python that can be parsed"),
        ("def model(features, classes): ...", "no function `build`"),
        ("class A:\n    def build(self): ...", "no function `build`"),
        ("\x00", "not Python that can be parsed"),
    ],
)
def test_faults_of_the_code(study: Make, tmp_path: Path, code: str, problem: str) -> None:
    (tmp_path / "model.py").write_text(code)
    (fault,) = check(study(model=CODE), tmp_path, SystemClock())
    assert problem in fault.problem


def test_code_that_is_not_text(study: Make, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_bytes(b"def build(): '\xff'")
    (fault,) = check(study(model=CODE), tmp_path, SystemClock())
    assert "not Python that can be parsed" in fault.problem


def test_code_is_read_and_not_run(study: Make, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef build(features, classes): ...")
    assert check(study(model=CODE), tmp_path, SystemClock()) == []
    assert not (tmp_path / "ran").exists()


def test_all_faults_at_once(study: Make, tmp_path: Path) -> None:
    changes: dict[str, Any] = {}
    for change, place, _ in FAULTS:
        if place in ("expires", "method.name", "training.schedule", "sites.names"):
            changes |= change
    with pytest.raises(BadStudy) as caught:
        refuse_faults(study(**changes), tmp_path, SystemClock())
    assert {fault.place for fault in caught.value.faults} == {
        "expires",
        "method.name",
        "training.schedule",
        "sites.names",
    }


def test_a_right_study_has_none(study: Make, tmp_path: Path) -> None:
    for changes in (
        {},
        {"privacy": {}},
        GROUPED,
        {"method": {"name": "fedavgm"}},
        {"sites": {}},
        {"evaluation": {"held_out": 0}},
        {**survival(180, 400), "evaluation": {"horizons": [400]}},
    ):
        assert check(study(**changes), tmp_path, SystemClock()) == []
        refuse_faults(study(**changes), tmp_path, SystemClock())


def test_terms_of_differential_privacy_are_checked_too(study: Make, tmp_path: Path) -> None:
    found = check(study(privacy={"differential_privacy": {"epsilon": 1}}), tmp_path, SystemClock())
    assert {"privacy.differential_privacy.delta", "model.framework", "cohort.standardise"} <= {fault.place for fault in found}
