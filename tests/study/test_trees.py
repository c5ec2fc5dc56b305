"""A study of boosted trees: what it cannot ask for, and its whole way with updates that are added in secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aimer2.client.simulate import simulate
from aimer2.core.clock import SystemClock
from aimer2.core.study import Study
from aimer2.study import trees
from aimer2.study.check import check

TREES: dict[str, Any] = {"framework": "trees", "name": "boosted", "options": {"trees": 3, "max_depth": 2}}
GROWN: dict[str, Any] = {"name": "boosted_trees", "rounds": 7}
COHORT: dict[str, Any] = {
    "dataset": "drawn",
    "standardise": "none",
    "features": [{"name": "age"}, {"name": "sex", "kind": "category", "categories": ["f", "m", "x"]}],
    "target": {"name": "event"},
}
IN_RANGE = COHORT | {"standardise": "range", "features": [{"name": "age", "minimum": 0, "maximum": 120}]}
OPEN = {"secure_aggregation": False, "why_not_secure": "a test"}


def study(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "trees",
        "question": "Which findings tell the event?",
        "purpose": "testing",
        "ethics": "none needed: drawn numbers",
        "principal_investigator": "Test",
        "expires": "2090-01-01",
        "cohort": COHORT,
        "model": TREES,
        "method": GROWN,
    }
    return Study(**(fields | changes))


FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"method": GROWN | {"rounds": 6}}, "method.rounds", "3 trees of depth 2 take 7"),
    ({"method": {"name": "fedprox", "rounds": 7}}, "method.name", "is no tree"),
    ({"method": GROWN | {"aggregator": "median"}, "privacy": OPEN, "sites": {"minimum": 3}}, "method.aggregator", "histograms are added"),
    ({"method": GROWN | {"parameters": {"reg_lambda": -1.0}}}, "method.parameters.reg_lambda", "at least 0"),
    ({"cohort": COHORT | {"missing": "keep"}, "model": {"framework": "torch", "name": "mlp"}, "method": {}}, "cohort.missing", "cannot compute"),
    ({"model": {"framework": "torch", "name": "mlp"}}, "method.name", "works on models of trees"),
    ({"model": TREES | {"options": {"trees": 3, "max_depth": 2, "bins": 256}}}, "model.options.bins", "255"),
    ({"model": TREES | {"options": {"depth": 2}}, "method": GROWN | {"rounds": 151}}, "model.options.depth", "no such option"),
    ({"training": {"learning_rate": 0.3}}, "training.learning_rate", "take none"),
    ({"training": {"local_steps": 5}}, "training.local_steps", "take none"),
    ({"training": {"momentum": 0.5}}, "training.momentum", "has none"),
    ({"training": {"weight_decay": 0.5}}, "training.weight_decay", "has none"),
    ({"training": {"optimiser": "adam"}}, "training.optimiser", "no 'adam'"),
    ({"training": {"class_weights": [1.0, 2.0]}}, "training.class_weights", "has none"),
    ({"method": GROWN | {"largest_change": 1.0}}, "method.largest_change", "another one than the mean change"),
    (
        {"method": {"name": "random_trees", "rounds": 3}, "cohort": IN_RANGE},
        "privacy.differential_privacy",
        "tell of single patients",
    ),
    ({"privacy": {"secure_aggregation": False}}, "privacy.why_not_secure", "sees each hospital's update"),
]


@pytest.mark.parametrize(("changes", "place", "told"), FAULTS, ids=[f"{place}: {told}" for _, place, told in FAULTS])
def test_faults(changes: dict[str, Any], place: str, told: str) -> None:
    (fault,) = check(study(**changes), Path(), SystemClock())
    assert fault.place == place
    assert told in str(fault)


@pytest.mark.parametrize("level", ["record", "site"])
def test_differential_privacy_is_refused(level: str) -> None:
    found = check(study(privacy={"differential_privacy": {"level": level, "epsilon": 1.0, "delta": 1e-5, "clip_norm": 1.0}}), Path(), SystemClock())
    assert found


def test_code_brings_no_trees(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("def build(features, classes): ...")
    changed = study(model={"framework": "trees", "code": "model.py"}, method=GROWN | {"rounds": 151})
    assert [fault.place for fault in check(changed, tmp_path, SystemClock())] == ["model.code"]


def test_trees_start_from_no_file(tmp_path: Path) -> None:
    given = study(model=TREES | {"weights": "trees.safetensors"})
    assert "lays new bins" in next(fault.problem for fault in trees.faults(given) if fault.place == "model.weights")


def test_a_right_study_has_none() -> None:
    for depth, rounds in ((2, 7), (1, 4), (0, 4)):
        options = {"trees": 3, "max_depth": depth}
        assert check(study(model=TREES | {"options": options}, method=GROWN | {"rounds": rounds}), Path(), SystemClock()) == []


def frames() -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(1)
    age, sex = rng.normal(60, 12, 300), rng.integers(0, 3, 300)
    event = (age + 10 * (sex == 1) + rng.normal(0, 8, 300) > 62).astype(int)
    whole = pd.DataFrame({"age": age, "sex": pd.Categorical([("f", "m", "x")[code] for code in sex]), "event": event})
    part = rng.choice(3, 300, p=(0.6, 0.3, 0.1))
    return {name: whole[part == number] for number, name in enumerate(("north", "south", "west"))}


def test_added_in_secret_it_is_the_same_model_and_a_good_one() -> None:
    secret, plain = simulate(study(), frames()), simulate(study(privacy=OPEN), frames())
    assert {name: leaf.tobytes() for name, leaf in secret.model.items()} == {name: leaf.tobytes() for name, leaf in plain.model.items()}
    figures = {figure.name: figure.value for figure in secret.figures}
    assert (figures["auc"] or 0) > 0.75
    assert secret.model["edges"][0].min() > 30, "in years, for they are not standardised"
    np.testing.assert_allclose(secret.model["edges"][1:, 0], 0.5, atol=0.01)


@pytest.mark.parametrize(("standardise", "missing"), [("federated", "mean"), ("federated", "keep"), ("none", "keep")])
def test_gaps_and_standardised_numbers(standardise: str, missing: str) -> None:
    sites = frames()
    whole = sites["north"]
    whole.loc[whole.index[whole["event"] == 1][:60], "age"] = np.nan
    simulation = simulate(study(cohort=COHORT | {"standardise": standardise, "missing": missing}, privacy=OPEN), sites)
    figures = {figure.name: figure.value for figure in simulation.figures}
    assert (figures["auc"] or 0) > 0.75
    model, root = simulation.model, simulation.model["feature"][0, 0, 0]
    learnt = bool(model["missing_left"][0, 0, 0])
    # those without an age had the event, as the old have: kept, they go right with them
    assert (root, learnt) == (0, False) or missing == "mean"
