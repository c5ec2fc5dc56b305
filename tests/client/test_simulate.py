"""A study in one process: what a researcher hands in, gets back, and is told when it is wrong."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import aimer2
from aimer2.algorithms.fedavg import FedAvg
from aimer2.client.simulate import federate, simulate
from aimer2.core.dataset import Samples
from aimer2.core.errors import AimerError, BadData, BadInput, BadStudy
from aimer2.core.study import Study, Target, Training
from aimer2.learners.numpy import NumpyLearner
from aimer2.learners.recipe import Recipe
from aimer2.models.linear import Linear
from aimer2.study.events import RoundFinished, StudyFinished, StudyStarted


def study(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "simulated",
        "question": "Does it run in one process?",
        "purpose": "testing",
        "ethics": "none needed: drawn numbers",
        "principal_investigator": "Test",
        "expires": "2090-01-01",
        "cohort": {"dataset": "drawn", "features": [{"name": "age"}, {"name": "dose"}], "target": {"name": "event"}},
        "model": {"framework": "numpy", "name": "logistic"},
        "training": {"learning_rate": 0.5, "batch_size": None, "local_steps": 5},
        "method": {"rounds": 4},
        "privacy": {"secure_aggregation": False, "why_not_secure": "a test"},
    }
    return Study(**(fields | changes))


def frame(seed: int, rows: int = 80) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age, dose = rng.normal(60, 10, rows), rng.normal(size=rows)
    return pd.DataFrame({"age": age, "dose": dose, "event": (age + 8 * dose > 60).astype(int)})


@pytest.fixture
def frames() -> dict[str, pd.DataFrame]:
    return {"north": frame(1), "south": frame(2, 120)}


def test_a_study_over_frames(frames: Any) -> None:
    seen: list[Any] = []
    simulation = simulate(study(), frames, on_event=seen.append)
    assert seen == list(simulation.events)
    assert isinstance(seen[0], StudyStarted)
    assert isinstance(seen[-1], StudyFinished)
    assert {name: leaf.shape for name, leaf in simulation.model.items()} == {"coefficients": (2,), "intercept": (1,)}
    figures = {figure.name: figure for figure in simulation.figures}
    assert figures["auc"].value > 0.9
    assert 15 < figures["auc"].n < 65, "a fifth of 200 patients is held out"
    assert simulation.result["sites"].keys() == {"north", "south"}
    json.dumps(dict(simulation.result), allow_nan=False)


def test_it_runs_in_a_notebook_whose_loop_is_running(frames: Any) -> None:
    async def cell() -> Any:
        return simulate(study(), frames)

    expected = simulate(study(), frames).model["coefficients"]
    assert np.array_equal(asyncio.run(cell()).model["coefficients"], expected)


def test_the_public_names_are_these() -> None:
    assert aimer2.simulate is simulate
    assert aimer2.federate is federate


def test_what_a_listener_raises_reaches_the_caller(frames: Any) -> None:
    class Enough(Exception): ...

    def stop(event: Any) -> None:
        if isinstance(event, RoundFinished):
            raise Enough

    with pytest.raises(Enough):
        simulate(study(), frames, on_event=stop)


def survival_frame(seed: int, rows: int = 90) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.normal(60, 10, rows)
    time, censored = rng.exponential(np.exp((60 - age) / 8)), rng.exponential(2, rows)
    death = pd.Categorical(np.where(time <= censored, "yes", "no"))
    return pd.DataFrame(
        {"age": age, "time": np.minimum(time, censored), "death": death, "fever": (age > 62).astype(int), "cough": (age < 58).astype(int)}
    )


@pytest.mark.parametrize(
    ("target", "evaluation", "told"),
    [
        ({"name": "time", "kind": "survival", "event": "death", "categories": ["no", "yes"]}, {}, ["concordance", "loss"]),
        (
            {"name": "time", "kind": "survival", "event": "death", "categories": ["no", "yes"], "intervals": [0.5, 1, 2]},
            {"horizons": [1]},
            ["concordance", "brier 1", "calibration_in_the_large 1", "loss"],
        ),
        (
            {"name": "findings", "kind": "multilabel", "labels": ["fever", "cough"]},
            {"metrics": ["auc_by_label", "hamming_accuracy"]},
            ["auc_by_label fever", "auc_by_label cough", "hamming_accuracy", "loss"],
        ),
    ],
    ids=["cox", "intervals", "labels"],
)
def test_targets_of_several_columns(target: Any, evaluation: Any, told: list[str]) -> None:
    asked = study(
        cohort={"dataset": "drawn", "features": [{"name": "age"}], "target": target},
        model={"name": "mlp", "options": {"hidden": [4]}},
        training={"optimiser": "adam", "learning_rate": 0.05, "batch_size": None, "local_steps": 30},
        evaluation=evaluation,
    )
    simulation = simulate(asked, {"north": survival_frame(1), "south": survival_frame(2)})
    assert [figure.name for figure in simulation.figures] == told
    first = simulation.figures[0]
    assert first.value is not None and first.value > 0.65


def test_patients_with_several_rows_stay_on_one_side(frames: Any) -> None:
    visits = {site: pd.concat([data.assign(patient=range(len(data)))] * 3) for site, data in frames.items()}
    once = simulate(study(), {site: data.assign(patient=range(len(data))) for site, data in frames.items()}, patient="patient")
    thrice = simulate(study(), visits, patient="patient")
    counts = [next(figure.n for figure in simulation.figures if figure.name == "auc") for simulation in (once, thrice)]
    assert counts[1] == 3 * counts[0]


def images(seed: int, rows: int = 30) -> Samples:
    rng = np.random.default_rng(seed)
    bright = rng.integers(0, 2, rows)
    return Samples(rng.normal(size=(rows, 1, 8, 8)).astype(np.float32) + 2 * bright[:, None, None, None], bright)


CNN: dict[str, Any] = {
    "model": {"framework": "torch", "name": "cnn", "options": {"channels": [4, 4]}},
    "training": {"learning_rate": 0.2, "batch_size": 10, "local_epochs": 2},
    "method": {"rounds": 3},
    "evaluation": {"held_out": 0.3, "metrics": ["accuracy"]},
}


def test_images_as_data_sets_whose_rows_are_ready() -> None:
    simulation = simulate(study(**CNN), {"a": images(1), "b": images(2, 50)})
    assert [event.stage for event in simulation.events if isinstance(event, RoundFinished)] == ["preflight", "train", "train", "train", "final"]
    losses = [
        next(f.value for f in event.figures if f.name == "loss") for event in simulation.events if isinstance(event, RoundFinished) and event.figures
    ]
    assert losses[-1] < losses[0] - 0.05
    assert all(leaf.dtype == np.float32 for leaf in simulation.model.values())
    held_out = next(figure.n for figure in simulation.figures if figure.name == "accuracy")
    assert 10 < held_out < 40
    again = simulate(study(**CNN), {"b": images(2, 50), "a": images(1)})
    assert all(np.array_equal(again.model[name], leaf) for name, leaf in simulation.model.items())


def test_code_beside_the_study(frames: Any, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("from aimer2.models.linear import Logistic\ndef build(features, classes):\n    return Logistic(features)\n")
    simulation = simulate(study(model={"framework": "numpy", "code": "model.py"}), frames, folder=tmp_path)
    assert np.array_equal(simulation.model["coefficients"], simulate(study(), frames).model["coefficients"])
    assert simulation.result["lineage"]["code"].keys() == {"model.py"}


# -- what is wrong


def test_names_that_no_site_can_have(frames: Any) -> None:
    with pytest.raises(BadStudy, match=r"sites.names\[1\]"):
        simulate(study(), {"Hospital A": frames["north"], "south": frames["south"]})


def test_no_sites_at_all() -> None:
    with pytest.raises(BadInput, match="no site"):
        simulate(study(), {})
    with pytest.raises(BadInput, match="no site"):
        federate(FedAvg(), {}, rounds=1)


def test_fewer_sites_than_the_study_needs(frames: Any) -> None:
    with pytest.raises(BadStudy, match=r"sites\.minimum: is 2, but `sites\.names` has only 1"):
        simulate(study(), {"north": frames["north"]})


def test_faults_of_the_study(frames: Any) -> None:
    with pytest.raises(BadStudy, match=r"method\.name") as caught:
        simulate(study(method={"name": "fedmagic"}, expires="2020-01-01"), frames)
    assert len(caught.value.faults) == 2


def test_data_that_do_not_meet_the_contract(frames: Any) -> None:
    with pytest.raises(AimerError, match=r"south: There is no column 'dose'"):
        simulate(study(), {**frames, "south": frames["south"].drop(columns="dose")})
    with pytest.raises(BadData, match="neither numbers nor categories"):
        simulate(study(), {**frames, "south": frames["south"].assign(dose="much")})
    with pytest.raises(BadData, match=r"no column .id. at north"):
        simulate(study(), frames, patient="id")


def test_rows_of_different_shapes() -> None:
    with pytest.raises(BadData, match="differ in the shape"):
        simulate(study(**CNN), {"a": images(1), "b": Samples(np.zeros((9, 1, 4, 4)), np.zeros(9))})


def test_rows_beside_tables(frames: Any) -> None:
    with pytest.raises(BadData, match="ready"):
        simulate(study(), {"north": frames["north"], "south": Samples(np.zeros((30, 2)), np.arange(30) % 2)})


def test_targets_that_no_class_has() -> None:
    odd = Samples(images(2).features, np.full(30, 7))
    with pytest.raises(AimerError, match="b: Targets are class numbers from 0 to 1"):
        simulate(study(**CNN, sites={"minimum": 2}), {"a": images(1), "b": odd})


def test_too_few_rows_to_train_on() -> None:
    with pytest.raises(AimerError, match=r"b: .* rows"):
        simulate(study(**CNN), {"a": images(1), "b": Samples(np.zeros((0, 1, 8, 8)), np.zeros(0, np.int64))})


def test_an_odd_order(frames: Any) -> None:
    with pytest.raises(BadInput, match="order"):
        simulate(study(), frames, order=["north"])


# -- the loop without a study file


def learner(rate: float = 0.2) -> NumpyLearner:
    return NumpyLearner(lambda: Linear(2), Recipe(Training(learning_rate=rate), Target(name="y", kind="regression"), 50, (2,)))


def test_federate_drives_any_method_over_any_rows() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(300, 2))
    rows = Samples(features, features @ [2.0, -1.0] + 3.0)
    sites = {"a": (learner(), Samples(rows.features[:100], rows.targets[:100])), "b": (learner(), Samples(rows.features[100:], rows.targets[100:]))}
    rounds: list[Any] = []
    model = federate(FedAvg(rounds=60), sites, rounds=60, on_event=rounds.append)
    assert model["coefficients"] == pytest.approx([2.0, -1.0], abs=1e-6)
    assert model["intercept"] == pytest.approx([3.0], abs=1e-6)
    assert sum(isinstance(event, RoundFinished) for event in rounds) == 60


def test_federate_says_which_site_failed() -> None:
    good = Samples(np.ones((5, 2)), np.ones(5))
    bad = Samples(np.ones((5, 3)), np.ones(5))
    with pytest.raises(AimerError, match="b: The features have shape"):
        federate(FedAvg(), {"a": (learner(), good), "b": (learner(), bad)}, rounds=2)
