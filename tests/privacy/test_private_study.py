"""A study under differential privacy from its document to its record: what leaves a site, and in which limit it is plain training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from aimer2.client.report import report
from aimer2.client.simulate import Simulation, simulate
from aimer2.connectors.frame import from_frame
from aimer2.core.errors import AimerError, BadData, BadInput, BadModel, BadStudy
from aimer2.core.study import Study
from aimer2.core.task import Task
from aimer2.study.check import promises
from aimer2.study.differential_privacy import POST_PROCESSING
from aimer2.study.events import RoundFinished
from aimer2.study.perform import open_performer

TERMS = {"noise_multiplier": 1.0, "delta": 1e-4, "clip_norm": 1.0, "sampling_rate": 0.2}


def made(rows: int = 60, seed: int = 0, per_patient: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age, pressure = rng.uniform(20, 90, rows), rng.uniform(80, 200, rows)
    disease = (rng.random(rows) < 1 / (1 + np.exp(-(age - 55) / 8))).astype(np.int64)
    patient = [f"p{seed}-{row // per_patient}" for row in range(rows)]
    return pd.DataFrame({"age": age, "pressure": pressure, "disease": disease, "patient": patient})


def three(**changes: Any) -> dict[str, pd.DataFrame]:
    return {name: made(seed=number, **changes) for number, name in enumerate(("east", "north", "south"))}


def private(terms: Mapping[str, Any] | None = TERMS, **changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "heart",
        "question": "Does this patient have a heart disease?",
        "purpose": "testing",
        "ethics": "none needed: drawn numbers",
        "principal_investigator": "Test",
        "expires": "2090-01-01",
        "cohort": {
            "dataset": "heart",
            "minimum_patients": 50,
            "standardise": "range",
            "features": [{"name": "age", "minimum": 0, "maximum": 120}, {"name": "pressure", "minimum": 50, "maximum": 250}],
            "target": {"name": "disease"},
        },
        "model": {"name": "logistic"},
        "training": {"local_steps": 2, "learning_rate": 1.0},
        "method": {"rounds": 2},
        "privacy": {} if terms is None else {"differential_privacy": terms},
    }
    for place, change in changes.items():
        fields[place] = {**fields.get(place, {}), **change}
    return Study(**fields)


def train(study: Study, frame: pd.DataFrame) -> Any:
    """What a site sends of its first round."""
    table = from_frame(frame, split_key=b"0123456789abcdef", patient="patient")
    performer = open_performer(study, table, site="east", files={})
    task = Task(id="t", study="0" * 64, site="east", stage="train", round_number=1)
    model = {"weight": np.zeros((1, 2), np.float32), "bias": np.zeros(1, np.float32)}
    return performer.perform(task, {"model": model}, {}).sums


def test_neither_the_number_of_patients_nor_a_figure_of_a_round_leaves_the_site() -> None:
    sums = train(private(), made(rows=97))
    assert sums.keys() == {"difference", "weight"}
    assert sums["weight"]["rows"].tolist() == [50.0]
    assert train(private(None), made(rows=97)).keys() == {"difference", "weight", "metrics"}


def test_the_same_round_computed_twice_has_other_noise() -> None:
    once, twice = (train(private(), made())["difference"]["weight"] for _ in range(2))
    assert not np.array_equal(once, twice)


def test_a_patient_with_many_rows_weighs_as_one() -> None:
    """Nearly no noise, everybody drawn: nineteen patients of a row each against the twentieth's thousand."""
    near = TERMS | {"noise_multiplier": 1e-4, "clip_norm": 0.1, "sampling_rate": 1.0}
    study = private(near, evaluation={"held_out": 0}, cohort={"minimum_patients": 1}, training={"local_steps": 1})
    few = made(rows=19)
    many = pd.concat([few, made(rows=1000, seed=5).assign(patient="p-many")], ignore_index=True)
    before, after = (train(study, frame)["difference"] for frame in (few, many))
    moved = np.concatenate([(after[name] - before[name]).ravel() for name in after])
    assert np.linalg.norm(moved) <= 0.1 + 1e-3


def test_without_noise_clipping_and_sampling_it_is_federated_averaging() -> None:
    """Of sites that have exactly the size that all have in public, where nobody is held out."""
    limit = {"noise_multiplier": 1e-6, "delta": 1e-4, "clip_norm": 100.0, "sampling_rate": 1.0}
    same = {"evaluation": {"held_out": 0}, "cohort": {"minimum_patients": 60}}
    mine = simulate(private(limit, **same), three(), patient="patient").model
    plain = simulate(private(None, training={"batch_size": 1000}, **same), three(), patient="patient").model
    for name, leaf in plain.items():
        np.testing.assert_allclose(mine[name], leaf, atol=1e-4)


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(private(), three(), patient="patient")


def test_only_the_last_model_is_measured(simulation: Simulation) -> None:
    measured = [event.stage for event in simulation.events if isinstance(event, RoundFinished) and event.figures]
    assert measured == ["final"]
    names = [figure.name for figure in simulation.figures]
    assert names == ["auc", "sensitivity", "specificity", "accuracy"]
    assert all(figure.low is None and "noise" in figure.note for figure in simulation.figures)


def test_the_record_states_the_guarantee_and_people_can_read_it(simulation: Simulation) -> None:
    stated = simulation.result["privacy"]["differential_privacy"]
    assert (stated["rounds"], stated["local_steps"], stated["figures"]["times"]) == (2, 2, 1)
    assert 0 < stated["epsilon"] <= stated["epsilon_by_renyi"]
    assert "by AIMER2" in stated["word"]
    console = Console(width=200)
    with console.capture() as capture:
        console.print(report(simulation.result))
    told = capture.get()
    assert "add or remove one patient" in told
    assert "not covered" in told


@pytest.mark.parametrize("name", POST_PROCESSING)
def test_every_method_that_is_allowed_runs(name: str) -> None:
    found = simulate(private(method={"name": name, "rounds": 1}, evaluation={"held_out": 0}), three(), patient="patient")
    assert all(np.isfinite(leaf).all() for leaf in found.model.values())
    assert found.result["privacy"]["differential_privacy"]["rounds"] == 1


TREES: dict[str, Any] = {
    "model": {"framework": "trees", "name": "boosted", "options": {"trees": 3, "max_depth": 2, "bins": 8}},
    "training": {},
    "method": {"name": "random_trees", "rounds": 3},
}


def trees(terms: Mapping[str, Any] | None = TERMS, **changes: Any) -> Study:
    document = private(terms).model_dump() | TREES
    for place, change in changes.items():
        document[place] = {**document[place], **change}
    return Study(**document)


def test_trees_of_drawn_splits_are_private_in_secret() -> None:
    found = simulate(trees(evaluation={"metrics": ("auc",)}), three(), patient="patient")
    stated = found.result["privacy"]["differential_privacy"]
    assert (stated["rounds"], stated["local_steps"], stated["noise_multiplier"]) == (3, 1, 1.0)
    assert stated["mechanism"].startswith("trees of drawn splits")
    trained = [event for event in found.events if isinstance(event, RoundFinished) and event.stage == "train"]
    assert all(event.secrecy is not None and not event.figures for event in trained)
    # one step a round of the very mechanism that DP-SGD is counted by
    once = simulate(private(training={"local_steps": 1}, method={"rounds": 3}, evaluation={"metrics": ("auc",)}), three(), patient="patient")
    assert stated["epsilon"] == once.result["privacy"]["differential_privacy"]["epsilon"]
    again = simulate(trees(evaluation={"metrics": ("auc",)}), three(), patient="patient")
    assert not np.array_equal(found.model["value"], again.model["value"])


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"method": {"name": "boosted_trees", "rounds": 7}}, "method.name"),
        ({"method": {"rounds": 7}}, "method.rounds"),
        ({"cohort": {"standardise": "none"}}, "cohort.standardise"),
        ({"cohort": {"target": {"name": "disease", "kind": "regression", "minimum": 0, "maximum": 1}}}, "cohort.target.kind"),
    ],
)
def test_trees_that_could_not_be_private_are_refused(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(BadStudy) as refused:
        simulate(trees(**changes), three(), patient="patient")
    assert place in [fault.place for fault in refused.value.faults]


def test_leaves_without_noise_are_refused_by_coordinator_and_site_too() -> None:
    clear = trees(None)
    assert [fault.place for fault in promises(clear)] == ["privacy.differential_privacy"]
    with pytest.raises(BadStudy, match="tell of single patients"):
        train(clear, made())


@pytest.mark.parametrize("name", ["qfedavg", "fedsgd"])
def test_a_method_that_looks_at_rows_is_refused_at_the_door_and_stopped_at_the_site(name: str) -> None:
    study = private(method={"name": name})
    with pytest.raises(BadStudy):
        simulate(study, three(), patient="patient")
    with pytest.raises((BadData, BadInput)):
        train(study, made())


MODEL = """
from torch import nn

def build(features, classes):
    return nn.Sequential(nn.Linear(features, 8), nn.GroupNorm(2, 8), nn.Tanh(), nn.Linear(8, 1))
"""


def test_a_model_of_the_studys_own_is_private_on_the_researchers_word(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    study = private(TERMS | {"asserted": True}, model={"name": None, "code": "model.py"})
    found = simulate(study, three(), patient="patient", folder=tmp_path).result["privacy"]
    assert found["differential_privacy"]["word"].startswith("asserted by the researcher")
    assert "researcher asserts" in found["statement"]
    (tmp_path / "model.py").write_text(MODEL.replace("GroupNorm(2, 8)", "BatchNorm1d(8)"))
    with pytest.raises(BadModel, match="BatchNorm1d"):
        simulate(study, three(), patient="patient", folder=tmp_path)


def test_a_site_that_cannot_keep_the_terms_does_nothing() -> None:
    with pytest.raises(AimerError):
        train(private(TERMS | {"delta": None}), made())


def test_the_hospital_itself_sees_its_figures_without_noise_and_they_stay_there() -> None:
    table = from_frame(made(rows=200), split_key=b"0123456789abcdef", patient="patient")
    study = private(evaluation={"metrics": ["accuracy"]})
    performer = open_performer(study, table, site="east", files={})
    task = Task(id="t", study="0" * 64, site="east", stage="final", round_number=1)
    model = {"weight": np.array([[3.0, 0.0]], np.float32), "bias": np.zeros(1, np.float32)}
    done = [performer.perform(task, {"model": model}, {}) for _ in range(2)]
    assert done[0].figures == done[1].figures
    (accuracy,) = done[0].figures
    assert accuracy.value is not None and accuracy.value * accuracy.n == pytest.approx(round(accuracy.value * accuracy.n))
    counts = [np.concatenate([np.ravel(leaf) for leaf in one.sums["metrics"].values()]) for one in done]
    assert not np.array_equal(*counts), "what leaves has noise"
    assert done[0].released == ()


def test_a_sites_own_figures_are_not_released_beside_the_account() -> None:
    with pytest.raises(BadStudy) as caught:
        simulate(private(evaluation={"release_per_site": True}), three(), patient="patient")
    assert [fault.place for fault in caught.value.faults] == ["evaluation.release_per_site"]


def test_the_figures_of_a_regression_come_of_bounded_sums() -> None:
    """A site predicts a pressure of 80 to 200 from the age, which says nothing of it: the error is that of the mean, give or take the noise."""
    cohort = {"features": [{"name": "age", "minimum": 0, "maximum": 120}], "target": {"name": "pressure", "kind": "regression"}}
    with pytest.raises(BadStudy):
        simulate(private(cohort=cohort, model={"name": "linear"}), three(), patient="patient")
    cohort["target"] |= {"minimum": 50, "maximum": 250}  # type: ignore[operator]
    study = private(TERMS | {"evaluation_noise": 0.01}, cohort=cohort, model={"name": "linear"}, evaluation={"held_out": 0.5})
    found = {figure.name: figure for figure in simulate(study, three(rows=200), patient="patient").figures}
    assert found.keys() == {"rmse", "mae", "r2"}
    assert 0 < found["mae"].value <= found["rmse"].value < 200  # type: ignore[operator]
    assert found["rmse"].low is None
