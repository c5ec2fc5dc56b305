"""The gate: a site keeps the best of three models by patients whom no model was trained on, and reports on others."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from aimer2.algorithms.ditto import Ditto
from aimer2.algorithms.fedavg import FedAvg
from aimer2.algorithms.local_fine_tuning import LocalFineTuning
from aimer2.client.simulate import simulate
from aimer2.core import tree
from aimer2.core.dataset import Samples
from aimer2.core.errors import BadData
from aimer2.core.study import Study, Target, Training
from aimer2.core.task import Task
from aimer2.learners.numpy import NumpyLearner
from aimer2.learners.recipe import Recipe
from aimer2.models.linear import Logistic
from aimer2.study.perform import Participant
from aimer2.study.performed import Performed
from aimer2.study.personal import divide

METHOD = LocalFineTuning(rounds=2, fine_tuning_steps=3, validation=0.4)


def drawn(seed: int, sign: float = 1.0, rows: int = 80) -> Samples:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 2))
    return Samples(features, (sign * features[:, 0] + 0.3 * rng.normal(size=rows) > 0).astype(np.int64))


def participant(data: Samples, held_out: Samples, method: Any = METHOD) -> Participant:
    learner = NumpyLearner(lambda: Logistic(2), Recipe(Training(learning_rate=0.5), Target(name="y"), 2, (2,), ("auc",)))
    return Participant(site="a", algorithm=method, learner=learner, data=data, held_out=held_out, steps=5)


def model(slope: float) -> dict[str, Any]:
    return {"coefficients": np.array([slope, 0.0]), "intercept": np.zeros(1)}


def at_the_end(site: Participant, common: dict[str, Any], start: dict[str, Any] | None = None) -> tuple[Performed, dict[str, Any]]:
    memory: dict[str, Any] = {"start": model(0.0) if start is None else start}
    task = Task.model_validate({"id": "t", "study": "0" * 64, "site": "a", "stage": "final", "round_number": 1})
    return site.perform(task, {"model": common}, memory), memory


def loss(site: Participant, weights: Any, data: Any) -> float:
    site.learner.load(weights)
    return tree.scalar(site.learner.evaluate(data), "loss")


@pytest.mark.parametrize(("slope", "steps", "kept"), [(6.0, 3, "personal"), (6.0, 0, "common"), (-6.0, 3, "local")])
def test_the_model_of_least_loss_on_the_validation_patients_is_kept(slope: float, steps: int, kept: str) -> None:
    """A good common model gains by three steps; without any the two are equal; from a bad one three steps do not lead back."""
    site = participant(drawn(1), drawn(2), LocalFineTuning(rounds=2, fine_tuning_steps=steps, validation=0.4))
    done, memory = at_the_end(site, model(slope))
    assert done.compared is not None
    assert done.compared.kept == kept
    _, judges = divide(site.data, 0.4)
    best = loss(site, memory["personal"], judges)
    assert best <= loss(site, model(slope), judges)
    assert best <= loss(site, alone_by_hand(site), judges)


def alone_by_hand(site: Participant) -> Any:
    trained, _ = divide(site.data, 0.4)
    site.learner.load(model(0.0))
    for number in (1, 2):
        site.learner.fit(trained, steps=5, batch_size=None, round_number=number, rng=np.random.default_rng(0))
    return site.learner.parameters()


def test_the_one_trained_alone_takes_as_many_steps_from_what_was_received_first() -> None:
    site = participant(drawn(1), drawn(2))
    done, _ = at_the_end(site, model(-6.0))
    assert done.compared is not None
    weights = alone_by_hand(site)
    assert {name: leaf.tolist() for name, leaf in done.compared.model.items()} == {name: leaf.tolist() for name, leaf in weights.items()}
    site.learner.load(weights)
    expected = site.learner.evaluate(drawn(2))
    assert {name: leaf.tolist() for name, leaf in done.sums["local_metrics"].items()} == {name: leaf.tolist() for name, leaf in expected.items()}
    assert done.sums["kept_metrics"] is done.sums["local_metrics"]


def test_the_held_out_patients_have_no_say() -> None:
    """With their outcomes turned round the same model is kept, and its figures are worse."""
    honest, turned = (at_the_end(participant(drawn(1), drawn(2, sign)), model(6.0))[0].compared for sign in (1.0, -1.0))
    assert honest is not None
    assert turned is not None
    assert honest.kept == turned.kept == "personal"
    assert tree.scalar(turned.measured["common"], "loss") > tree.scalar(honest.measured["common"], "loss")


def test_the_validation_patients_are_not_trained_on() -> None:
    data = drawn(1)
    _, judges = divide(data, 0.4)
    known = {tuple(row) for row in judges.batch(np.arange(len(judges)))[0].tolist()}
    targets = np.array([1 - y if tuple(x) in known else y for x, y in zip(data.features.tolist(), data.targets, strict=True)])
    task = Task.model_validate({"id": "t", "study": "0" * 64, "site": "a", "stage": "train", "round_number": 1})
    sums = [
        participant(Samples(data.features, outcome), drawn(2), Ditto(validation=0.4)).perform(task, {"model": model(0.0)}, {}).sums
        for outcome in (data.targets, targets)
    ]
    assert sums[0]["difference"]["coefficients"].tolist() == sums[1]["difference"]["coefficients"].tolist()
    assert sums[0]["weight"]["rows"] == len(data) - len(judges)


def test_a_patients_rows_are_on_one_side() -> None:
    data = drawn(1)
    patients = np.repeat(np.arange(20, dtype=np.uint64), 4)
    sides = divide(Samples(data.features, data.targets, patients), 0.3)
    trained, judges = ({*part.patients.tolist()} for part in sides)  # type: ignore[attr-defined]
    assert not trained & judges
    assert trained | judges == set(range(20))


def test_too_few_patients_to_choose_are_refused() -> None:
    with pytest.raises(BadData, match="too few patients"):
        divide(Samples(np.zeros((5, 1)), np.zeros(5), np.zeros(5, np.uint64)), 0.5)


def test_other_methods_send_only_the_common_figures() -> None:
    done, memory = at_the_end(participant(drawn(1), drawn(2), FedAvg()), model(1.0))
    assert set(done.sums) == {"metrics"}
    assert set(memory) == {"start"}


def test_the_study_reports_the_kept_models_and_those_trained_alone() -> None:
    """Two hospitals with opposite patients: the common model knows nothing, each one's own does."""
    study = Study(
        name="opposite",
        question="Does a model of one's own help?",
        purpose="test",
        ethics="none needed",
        principal_investigator="Test Person",
        expires=datetime.date(2100, 1, 1),
        cohort={"dataset": "d", "features": [{"name": "u"}, {"name": "v"}], "target": {"name": "y"}, "standardise": "none"},
        model={"framework": "numpy", "name": "logistic"},
        training={"learning_rate": 0.5, "local_steps": 10, "batch_size": None},
        method={"name": "ditto", "rounds": 3},
        evaluation={"held_out": 0.3, "release_per_site": True},
        privacy={"secure_aggregation": False, "why_not_secure": "a test"},
    )
    sites = {}
    for name, sign in (("north", 1.0), ("south", -1.0)):
        data = drawn(3, sign, 200)
        sites[name] = pd.DataFrame({"u": data.features[:, 0], "v": data.features[:, 1], "y": data.targets})
    done = simulate(study, sites)
    figures = {figure.name: figure.value for figure in done.figures}
    assert figures["auc"] < 0.7
    assert figures["kept auc"] > 0.95
    assert figures["local auc"] > 0.95
    released = [{figure["name"]: figure["value"] for figure in told} for told in done.result["released"].values()]
    assert min(told["auc"] for told in released) < 0.3 and min(told["kept auc"] for told in released) > 0.95
